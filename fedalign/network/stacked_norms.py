"""Normalisation layers that run with K sets of weights at once."""

from __future__ import annotations

from math import prod
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedalign.network.twins import StackedLayer


class _StackedNorm(StackedLayer):
    """A layer whose outputs are scaled and shifted by weights of the model."""

    def scaled(self, y: Tensor, axis: int) -> Tensor:
        """Scale and shift `(K * B, …)` by parameters `(K, …)` that begin at an axis of y."""
        for name in ("weight", "bias"):
            if name in self.names:
                own = self.parameter(name)
                between, after = axis - 1, y.ndim - axis - own.ndim + 1
                own = own.view(len(own), 1, *[1] * between, *own.shape[1:], *[1] * after)
                folded = y.view(len(own), -1, *y.shape[1:])
                y = (folded * own if name == "weight" else folded + own).view(y.shape)
        return y


class _StackedBatchNorm(_StackedNorm):
    """BatchNorm for K models, each of which normalises its own examples `(K * B, C, …)`.

    In training, examples that only fill up a batch do not count. A model without any that count
    is normalised by its running statistics, which stay as they are. `ValueError` for one value.
    """

    eps: float
    momentum: float | None
    track_running_stats: bool

    def is_plain(self) -> bool:
        """Return whether the running statistics are of the usual kind."""
        return self.track_running_stats and self.momentum is not None

    def forward(self, x: Tensor) -> Tensor:
        """Return normalised examples; in training, update the models' running statistics."""
        mean, variance = self.buffer("running_mean"), self.buffer("running_var")
        folded = x.float().view(len(mean), -1, *x.shape[1:])
        if self.training:
            centred, spread = self._of_batch(folded, mean, variance)
        else:
            centred, spread = folded - _of_channels(mean, folded), variance
        y = centred * _of_channels((spread + self.eps).rsqrt(), folded)
        return self.scaled(y.view(x.shape), 1)

    def _of_batch(self, x: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Return centred examples and their variance, by the statistics of the batch."""
        if self.weights.smallest == 1 and prod(x.shape[3:]) == 1:
            raise ValueError("Expected more than 1 value per channel when training")  # as PyTorch
        axes = (1, *range(3, x.ndim))
        counts = self.weights.examples.view(*x.shape[:2], *[1] * (x.ndim - 2))
        n = counts.sum(axes, dtype=torch.float32) * prod(x.shape[3:])  # (K, 1)
        some, n = n > 0, n.clamp(min=1)
        own = torch.where(some, torch.where(counts, x, 0).sum(axes) / n, mean)
        centred = x - _of_channels(own, x)
        spread = torch.where(counts, centred, 0).square().sum(axes) / n
        unbiased = torch.where(some, spread * n / (n - 1).clamp(min=1), variance)
        spread = torch.where(some, spread, variance)
        with torch.no_grad():
            mean.lerp_(own, cast(float, self.momentum))
            variance.lerp_(unbiased, cast(float, self.momentum))
        return centred, spread


def _of_channels(values: Tensor, x: Tensor) -> Tensor:
    """Return values `(K, C)` as they apply to `(K, B, C, …)`."""
    return values.view(len(values), 1, -1, *[1] * (x.ndim - 3))


class StackedBatchNorm1d(_StackedBatchNorm, nn.BatchNorm1d):
    """`nn.BatchNorm1d` for K models: `(K * B, C)` or `(K * B, C, L)`."""


class StackedBatchNorm2d(_StackedBatchNorm, nn.BatchNorm2d):
    """`nn.BatchNorm2d` for K models: `(K * B, C, H, W)`."""


class StackedBatchNorm3d(_StackedBatchNorm, nn.BatchNorm3d):
    """`nn.BatchNorm3d` for K models: `(K * B, C, D, H, W)`."""


class StackedGroupNorm(_StackedNorm, nn.GroupNorm):
    """`nn.GroupNorm` for K models; only its scale and shift differ between models."""

    def forward(self, x: Tensor) -> Tensor:
        """Return normalised examples `(K * B, C, …)`."""
        return self.scaled(functional.group_norm(x, self.num_groups, eps=self.eps), 1)


class StackedLayerNorm(_StackedNorm, nn.LayerNorm):
    """`nn.LayerNorm` for K models; only its scale and shift differ between models."""

    def forward(self, x: Tensor) -> Tensor:
        """Return normalised examples `(K * B, …)`."""
        y = functional.layer_norm(x, self.normalized_shape, eps=self.eps)
        return self.scaled(y, x.ndim - len(self.normalized_shape))


class StackedRMSNorm(_StackedNorm, nn.RMSNorm):
    """`nn.RMSNorm` for K models; only its scale differs between models."""

    def forward(self, x: Tensor) -> Tensor:
        """Return normalised examples `(K * B, …)`."""
        y = functional.rms_norm(x, list(self.normalized_shape), eps=self.eps)
        return self.scaled(y, x.ndim - len(self.normalized_shape))


class StackedPReLU(StackedLayer, nn.PReLU):
    """`nn.PReLU` for K models: `(K * B, C, …)`."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x where it is positive, and a learnt share of it elsewhere."""
        weight = self.parameter("weight")
        folded = x.view(len(weight), -1, *x.shape[1:])
        return (folded.clamp(min=0) + _of_channels(weight, folded) * folded.clamp(max=0)).view(
            x.shape
        )
