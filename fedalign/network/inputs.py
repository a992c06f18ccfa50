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

    def blank(self, count: int) -> Tensor:
        """Return the inputs of so many examples in which every number is 0."""
        return self(torch.zeros(count, *self.shape, dtype=torch.uint8, device=self.device))
