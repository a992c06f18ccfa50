"""Layers that run with K sets of weights at once.

Their input holds the batches of all K models one after the other, `(K * B, …)`. A layer owns no
weights: it asks `Weights` for them in each forward pass, and its backward pass writes gradients
straight to where the optimiser wants them.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedalign.network.kernels import Target, grouped_conv, leaf, linear, looped_conv
from fedalign.network.layout import Layout


class Weights(Protocol):
    """Supplies stacked layers with the tensors of K models.

    Attributes:
        examples: `(K, B)` bool, which examples count in training; the others fill up a batch.
    """

    examples: Tensor

    def parameter(self, name: str) -> tuple[Tensor, Target]:
        """Return a parameter's `(K, …)` view, and where its gradient goes."""
        ...

    def buffer(self, name: str) -> Tensor:
        """Return a float buffer's `(K, …)` view."""
        ...


Layers = dict[type[nn.Module], Callable[[Any, str, Any], nn.Module]]
"""The stacked form of each type of layer, made of a layer, the prefix of its names, and weights."""


def stacked_twin(module: nn.Module, layout: Layout, weights: Weights, layers: Layers) -> nn.Module:
    """Return a copy of a module, whose layers with weights take them from `weights`.

    `layers` has their stacked forms. `TypeError` for a weight in a layer that has none, and for a
    weight that several layers share.
    """
    replaced: dict[int, Any] = {}
    owned = []
    for name, layer in module.named_modules():
        prefix = f"{name}." if name else ""
        own = [prefix + key for key, _ in layer.named_parameters(recurse=False)]
        if type(layer) in layers:
            _require_plain(layer, name)
            replaced[id(layer)] = stacked = layers[type(layer)](layer, prefix, weights)
            _take_over(layer, stacked)
        elif own:
            raise TypeError(f"{name or 'the model'} is a {layer} with weights of its own")
        owned += own
    if sorted(owned) != sorted(entry.name for entry in layout.parameters):
        raise TypeError("layers share a weight")
    twin: nn.Module = copy.deepcopy(module, replaced)  # which takes them for copies it has made
    return twin


def _take_over(layer: nn.Module, stacked: nn.Module) -> None:
    """Give a stacked layer the hooks of its layer, and tensors without entries of the same kind.

    A module's `forward` may ask for the device or dtype of its first parameter.
    """
    for key, hooks in vars(layer).items():
        if key.endswith("_hooks") or "_hooks_" in key:
            stacked.__dict__[key] = copy.deepcopy(hooks)
    for name, parameter in layer.named_parameters(recurse=False):
        setattr(stacked, name, nn.Parameter(parameter.new_empty(0)))
    for name, buffer in layer.named_buffers(recurse=False):
        setattr(stacked, name, buffer.new_empty(0))


def _require_plain(layer: nn.Module, name: str) -> None:
    """Raise `TypeError` for a layer with an option that its stacked form does not know."""
    plain = {key for key, _ in layer.named_parameters()} <= {"weight", "bias"}
    if isinstance(layer, nn.Conv2d):
        plain &= layer.groups == 1 and layer.padding_mode == "zeros"
        plain &= isinstance(layer.padding, tuple)
    elif isinstance(layer, nn.BatchNorm2d):
        plain &= layer.track_running_stats and layer.momentum is not None
    if not plain:
        raise TypeError(f"{name or 'the model'} is a {layer}, whose options cannot be stacked")


class StackedLinear(nn.Linear):
    """`nn.Linear` for K models: `(K * B, …, I)` to `(K * B, …, O)`."""

    def __init__(self, layer: nn.Linear, prefix: str, weights: Weights):
        bias = layer.bias is not None
        super().__init__(layer.in_features, layer.out_features, bias, device="meta")
        self.names, self.weights = _names(prefix, bias), weights

    def forward(self, x: Tensor) -> Tensor:
        """Return what each model makes of its own rows."""
        weight, *others = _operands(self.weights, self.names)
        rows = x.reshape(len(weight), -1, x.shape[-1])
        y: Tensor = linear(rows, weight, *others)
        return y.view(*x.shape[:-1], -1)


class StackedConv2d(nn.Conv2d):
    """`nn.Conv2d` for K models: `(K * B, C, H, W)` to `(K * B, O, H', W')`."""

    def __init__(self, layer: nn.Conv2d, prefix: str, weights: Weights):
        bias, how = layer.bias is not None, (layer.stride, layer.padding, layer.dilation)
        channels, kernel = (layer.in_channels, layer.out_channels), layer.kernel_size
        super().__init__(*channels, kernel, *how, bias=bias, device="meta")  # type: ignore[arg-type]
        self.names, self.weights = _names(prefix, bias), weights
        self.how: Any = how

    def forward(self, x: Tensor) -> Tensor:
        """Return each model's convolution of its own examples."""
        kind = grouped_conv if x.is_cuda else looped_conv
        y: Tensor = kind(x, *_operands(self.weights, self.names), self.how)
        return y


class StackedBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` for K models, each of which normalises its own examples.

    In training, examples that only fill up a batch do not count.
    """

    def __init__(self, layer: nn.BatchNorm2d, prefix: str, weights: Weights):
        super().__init__(layer.num_features, layer.eps, layer.momentum, layer.affine, device="meta")
        self.names, self.weights = _names(prefix, bias=True), weights
        self.statistics = f"{prefix}running_mean", f"{prefix}running_var"

    def forward(self, x: Tensor) -> Tensor:
        """Return normalised examples; in training, update the models' running statistics."""
        mean, variance = map(self.weights.buffer, self.statistics)
        folded = x.float().view(len(mean), -1, *x.shape[1:])
        if self.training:
            centred, spread = self._of_batch(folded, mean, variance)
        else:
            centred, spread = folded - mean[:, None, :, None, None], variance
        y = centred * (spread + self.eps).rsqrt()[:, None, :, None, None]
        return (_scaled(self.weights, self.names, y) if self.affine else y).view(x.shape)

    def _of_batch(self, x: Tensor, mean: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
        """Return centred examples and their variance, by the statistics of the batch."""
        counts = self.weights.examples[:, :, None, None, None]
        n = counts.sum((1, 3, 4), dtype=torch.float32) * x.shape[3] * x.shape[4]  # (K, 1)
        own = torch.where(counts, x, 0).sum((1, 3, 4)) / n
        centred = x - own[:, None, :, None, None]
        spread = torch.where(counts, centred, 0).square().sum((1, 3, 4)) / n
        with torch.no_grad():
            mean.lerp_(own, cast(float, self.momentum))
            variance.lerp_(spread * n / (n - 1).clamp(min=1), cast(float, self.momentum))
        return centred, spread


class StackedGroupNorm(nn.GroupNorm):
    """`nn.GroupNorm` for K models; only its scale and shift differ between models."""

    def __init__(self, layer: nn.GroupNorm, prefix: str, weights: Weights):
        super().__init__(
            layer.num_groups, layer.num_channels, layer.eps, layer.affine, device="meta"
        )
        self.names, self.weights = _names(prefix, bias=True), weights

    def forward(self, x: Tensor) -> Tensor:
        """Return normalised examples."""
        y = functional.group_norm(x, self.num_groups, eps=self.eps)
        if not self.affine:
            return y
        count = len(self.weights.parameter(self.names[0])[0])
        return _scaled(self.weights, self.names, y.view(count, -1, *x.shape[1:])).view(x.shape)


Names = tuple[str, str]  # of a layer's weight and bias; "" where it has no bias


def _names(prefix: str, bias: bool) -> Names:
    return f"{prefix}weight", f"{prefix}bias" if bias else ""


def _operands(weights: Weights, names: Names) -> tuple[Tensor, Tensor | None, Any, Any]:
    """Return weight, bias, and where their gradients go."""
    weight, to_weight = weights.parameter(names[0])
    bias, to_bias = weights.parameter(names[1]) if names[1] else (None, None)
    return weight, bias, to_weight, to_bias


def _scaled(weights: Weights, names: Names, y: Tensor) -> Tensor:
    """Scale and shift the channels of `(K, B, C, H, W)` by a norm's weight and bias."""
    weight, bias = (leaf(*weights.parameter(name)) for name in names)
    scaled: Tensor = y * weight[:, None, :, None, None] + bias[:, None, :, None, None]
    return scaled


LAYERS: Layers = {
    nn.Linear: StackedLinear,
    nn.Conv2d: StackedConv2d,
    nn.BatchNorm2d: StackedBatchNorm2d,
    nn.GroupNorm: StackedGroupNorm,
}
