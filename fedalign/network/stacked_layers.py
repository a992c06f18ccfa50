"""Linear layers, convolutions and embeddings that run with K sets of weights at once.

Their input is `(K * B, …)`, and their backward pass writes gradients straight to where the
optimiser wants them.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from fedalign.network.convolution import Convolution, stacked_conv
from fedalign.network.kernels import embedding, linear
from fedalign.network.twins import StackedLayer


class StackedLinear(StackedLayer, nn.Linear):
    """`nn.Linear` for K models: `(K * B, …, I)` to `(K * B, …, O)`."""

    def forward(self, x: Tensor) -> Tensor:
        """Return what each model makes of its own rows."""
        weight, to_weight = self.with_target("weight")
        bias, to_bias = self.with_target("bias")
        rows = x.reshape(len(weight), -1, x.shape[-1])
        y: Tensor = linear(rows, weight, bias, to_weight, to_bias)
        return y.view(*x.shape[:-1], -1)


class StackedConv(StackedLayer):
    """A convolution for K models: `(K * B, C, …)` to `(K * B, O, …)`."""

    stride: tuple[int, ...]
    padding: Any
    dilation: tuple[int, ...]
    kernel_size: tuple[int, ...]
    groups: int
    padding_mode: str

    def forward(self, x: Tensor) -> Tensor:
        """Return each model's convolution of its own examples."""
        weight, to_weight = self.with_target("weight")
        bias, to_bias = self.with_target("bias")
        x, how = self.padded(x)
        return stacked_conv(x, weight, bias, to_weight, to_bias, how)

    def padded(self, x: Tensor) -> tuple[Tensor, Convolution]:
        """Return the input, padded where the convolution itself cannot, and how to convolve it."""
        before, after = self._paddings()
        if before == after and self.padding_mode == "zeros":
            return x, Convolution(self.stride, before, self.dilation, self.groups)
        sides = [side for pair in reversed(list(zip(before, after, strict=True))) for side in pair]
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        none = (0,) * len(self.stride)
        how = Convolution(self.stride, none, self.dilation, self.groups)
        return functional.pad(x, sides, mode), how

    def _paddings(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the padding before and after each axis."""
        if self.padding == "same":
            sizes = zip(self.dilation, self.kernel_size, strict=True)
            total = [dilation * (size - 1) for dilation, size in sizes]
            before = tuple(size // 2 for size in total)
            return before, tuple(size - first for size, first in zip(total, before, strict=True))
        tuples = (0,) * len(self.stride) if self.padding == "valid" else self.padding
        return tuples, tuples


class StackedConv1d(StackedConv, nn.Conv1d):  # type: ignore[misc]
    """`nn.Conv1d` for K models: `(K * B, C, L)` to `(K * B, O, L')`."""


class StackedConv2d(StackedConv, nn.Conv2d):  # type: ignore[misc]
    """`nn.Conv2d` for K models: `(K * B, C, H, W)` to `(K * B, O, H', W')`."""


class StackedConv3d(StackedConv, nn.Conv3d):  # type: ignore[misc]
    """`nn.Conv3d` for K models: `(K * B, C, D, H, W)` to `(K * B, O, D', H', W')`."""


class StackedEmbedding(StackedLayer, nn.Embedding):
    """`nn.Embedding` for K models: `(K * B, …)` to `(K * B, …, D)`."""

    def is_plain(self) -> bool:
        """Return whether no option changes weights or gradients."""
        return not (self.max_norm or self.scale_grad_by_freq or self.sparse)

    def forward(self, codes: Tensor) -> Tensor:
        """Return the rows of each model's own table."""
        y: Tensor = embedding(codes, *self.with_target("weight"), self.padding_idx)
        return y
