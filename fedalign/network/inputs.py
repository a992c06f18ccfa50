"""From stored examples to what a module takes in."""

from __future__ import annotations

import torch
from torch import Tensor

from fedalign.data import Dataset, Spec


class Inputs:
    """Turns stored examples into a module's input.

    Images are stored as uint8 and normalised here; text is stored as codes.

    Attributes:
        device: where the inputs are.
        shape: of one example.
        values: how many values a stored number may have.
    """

    def __init__(self, spec: Spec | Dataset, device: torch.device):
        self.device = device
        self.shape, self._is_text = spec.shape, spec.is_text
        self.values = spec.classes if spec.is_text else 256
        self._mean = torch.tensor(spec.mean, device=device)[None, :, None, None] * 255.0
        self._std = torch.tensor(spec.std, device=device)[None, :, None, None] * 255.0

    def __call__(self, examples: Tensor) -> Tensor:
        """Return float32 images `(B, C, H, W)`, channels-last, or int64 codes `(B, L)`."""
        if self._is_text:
            return examples.long()
        floats = examples.to(torch.float32, memory_format=torch.channels_last)
        return floats.sub_(self._mean).div_(self._std)

    def random(
        self, count: int, generator: torch.Generator | None = None, levels: Tensor | None = None
    ) -> Tensor:
        """Return the inputs of random examples; by default always the same ones.

        `levels` `(count,)`, from 0 to 1, makes an example's stored numbers smaller.
        """
        generator = generator or torch.Generator().manual_seed(0)
        shape = count, *self.shape
        examples = torch.randint(0, self.values, shape, generator=generator).to(torch.uint8)
        if levels is not None:
            examples = (examples * levels.view(-1, *[1] * len(self.shape))).to(torch.uint8)
        return self(examples.to(self.device))
