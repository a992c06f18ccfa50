"""From stored examples to what a module takes in."""

from __future__ import annotations

import torch
from torch import Tensor

from fedalign.data import Dataset, Spec


class Inputs:
    """Turns stored examples into a module's input.

    Images are stored as uint8, rows of tables as float32; both are normalised here. Text is stored
    as the numbers of characters or tokens. Images may have been changed before, even to floats from
    0 to 255.

    Attributes:
        device: where the inputs are.
        shape: of one example.
        values: how many values a stored whole number may have.
    """

    def __init__(self, spec: Spec | Dataset, device: torch.device):
        self.device = device
        self.shape, self._is_text = spec.shape, spec.is_text
        self.values = (spec.vocabulary or spec.classes) if spec.is_text else 256
        self._whole = torch.uint8 if spec.vocabulary is None else torch.int32
        self._is_table = len(self.shape) == 1 and not spec.is_text
        axes, scale = (1, -1, 1, 1)[: 1 + len(self.shape)], 1.0 if self._is_table else 255.0
        self._mean = torch.tensor(spec.mean, device=device).view(axes) * scale
        self._std = torch.tensor(spec.std, device=device).view(axes) * scale

    def __call__(self, examples: Tensor) -> Tensor:
        """Return what a module takes in.

        Float32 images `(B, C, H, W)`, channels-last, or rows `(B, F)`, or int64 `(B, L)`.
        """
        if self._is_text:
            return examples.long()
        if self._is_table:
            return (examples - self._mean) / self._std
        # A copy even of images that are floats already, since they have been mixed.
        floats = examples.to(torch.float32, copy=True, memory_format=torch.channels_last)
        return floats.sub_(self._mean).div_(self._std)

    def blank(self, count: int) -> Tensor:
        """Return stored examples of zeros."""
        dtype = torch.float32 if self._is_table else self._whole
        return torch.zeros((count, *self.shape), dtype=dtype, device=self.device)

    def random(
        self, count: int, generator: torch.Generator | None = None, levels: Tensor | None = None
    ) -> Tensor:
        """Return the inputs of random examples; by default always the same ones.

        `levels` `(count,)`, from 0 to 1, makes an example's stored numbers smaller.
        """
        generator = generator or torch.Generator().manual_seed(0)
        shape = count, *self.shape
        if self._is_table:
            rows = torch.randn(shape, generator=generator) * (
                1.0 if levels is None else levels[:, None]
            )
            return rows.to(self.device)
        examples = torch.randint(0, self.values, shape, generator=generator).to(self._whole)
        if levels is not None:
            examples = (examples * levels.view(-1, *[1] * len(self.shape))).to(self._whole)
        return self(examples.to(self.device))
