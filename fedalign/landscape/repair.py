"""REPAIR: rescale the activations of mixed models to the strength of the original models.

Activations of averaged models vary less than those of the models they are made of, more so with
each layer: variance collapse. REPAIR (Jordan et al. 2023, arXiv 2211.08403, section 3) gives each
neuron the mean and standard deviation that it has in the original models, on average.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fedalign.landscape.paths import Mix
from fedalign.network.network import Network

FEATURES: dict[type[nn.Module], int] = {
    nn.Linear: -1,
    nn.Conv2d: 1,
    nn.GroupNorm: 1,
    nn.LayerNorm: -1,
}
"""The feature axis of the output of each layer whose weight and bias can absorb a rescaling."""


class Moments(NamedTuple):
    """Mean and standard deviation of a layer's features `(D,)`, over examples and positions."""

    mean: Tensor
    std: Tensor


class Repair:
    """Rescales mixes of named models.

    The outputs of all layers with a weight and a bias, except the last, are rescaled before their
    activation function. BatchNorm needs no rescaling once its statistics are those of the mix, see
    `Network.recalibrate`.

    Args:
        network: the network that all models belong to.
        models: `(F,)`, by name.
        images: `(N, C, H, W)` uint8, on which statistics are computed, in one pass.
    """

    def __init__(self, network: Network, models: Mapping[str, Tensor], images: Tensor):
        self._network, self._models, self._images = network, models, images
        layers = network.modules(*FEATURES)
        self._axes = {
            name: FEATURES[type(layer)]
            for name, layer in layers.items()
            if type(layer) in FEATURES and layer.weight is not None and layer.bias is not None
        }
        self._known: dict[str, dict[str, Moments]] = {}

    def __call__(self, vector: Tensor, mix: Mix) -> Tensor:
        """Return a rescaled copy of `vector` `(F,)`, which is this mix of the models.

        A mix of one model is returned unchanged. Layers are rescaled from the input on, each with
        the outputs of the rescaled layers before it.
        """
        if len(mix) == 1:
            return vector
        parts = [self._moments(name) for name in mix]
        shares = torch.tensor(list(mix.values()), device=self._network.device)
        wanted = {
            layer: Moments(*(shares @ torch.stack(values) for values in zip(*layers, strict=True)))
            for layer in list(parts[0])[:-1]
            for layers in [[part[layer] for part in parts]]
        }
        vector = vector.to(self._network.device, copy=True)
        source = vector.clone()  # this one runs while layers are rescaled in `vector`
        taps = {layer: partial(self._rescale, vector, layer, to) for layer, to in wanted.items()}
        self._network.tap(source, self._images, taps)
        return vector

    def _rescale(self, vector: Tensor, layer: str, wanted: Moments, out: Tensor) -> Tensor:
        """Return a layer's output with the wanted moments; write the rescaling into `vector`."""
        mean, std = moments(out, self._axes[layer])
        factor = torch.where(std > 0, wanted.std / std, 1.0)
        shift = wanted.mean - factor * mean
        entries = {entry.name: entry for entry in self._network.layout.parameters}
        weight, bias = (entries[f"{layer}.{key}"].view(vector) for key in ("weight", "bias"))
        weight.mul_(factor.view(-1, *[1] * (weight.dim() - 1)))
        bias.mul_(factor).add_(shift)
        shape = [1] * out.dim()
        shape[self._axes[layer]] = -1
        return out * factor.view(shape) + shift.view(shape)

    def _moments(self, name: str) -> dict[str, Moments]:
        """Return a model's moments by layer, in the order of the forward pass; computed once."""
        if name not in self._known:
            by_layer: dict[str, Moments] = {}

            def record(layer: str, axis: int, out: Tensor) -> None:
                by_layer[layer] = moments(out, axis)

            taps = {layer: partial(record, layer, axis) for layer, axis in self._axes.items()}
            self._network.tap(self._models[name], self._images, taps)
            self._known[name] = by_layer
        return self._known[name]


def moments(out: Tensor, axis: int) -> Moments:
    """Return mean and standard deviation of each feature of a layer's output."""
    rows = out.float().movedim(axis, 0).flatten(1)
    return Moments(rows.mean(1), rows.std(1, correction=0))
