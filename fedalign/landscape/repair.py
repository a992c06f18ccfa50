"""Activations of mixed models as strong as those of the models they are mixed of.

The neurons of an average agree less than those of its parts, so their activations vary less, layer
by layer: variance collapse. REPAIR (Jordan et al. 2023, arXiv 2211.08403, section 3) gives each
neuron the mean and the deviation that it has in the parts, on average.
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
"""Where an output has its features, of layers whose weight and bias can take in a rescaling."""


class Moments(NamedTuple):
    """Mean and standard deviation of each feature of a layer, over examples and places, `(D,)`."""

    mean: Tensor
    std: Tensor


class Repair:
    """Rescales mixes of some named models.

    What is rescaled is what comes out of each layer with a weight and a bias, but for the last,
    before its activation function. BatchNorm does it by itself where its statistics are those of
    the mix, see `Network.recalibrate`.

    Args:
        network: what the models are weights of.
        models: `(F,)`, by name.
        images: `(N, C, H, W)` uint8, on which statistics are taken, in one pass.
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
        """Return the rescaled copy of `vector` `(F,)`, which is this mix of the models.

        A model alone comes back as it is. Layers are mended from the input on, each on what the
        mended ones before it put out.
        """
        if len(mix) == 1:
            return vector
        parts = [self._moments(name) for name in mix]
        shares = torch.tensor(list(mix.values()), device=self._network.device)
        wanted = {
            layer: Moments(*(shares @ torch.stack(own) for own in zip(*found, strict=True)))
            for layer in list(parts[0])[:-1]
            for found in [[part[layer] for part in parts]]
        }
        vector = vector.to(self._network.device, copy=True)
        source = vector.clone()  # layers are mended in `vector` while this one runs
        taps = {layer: partial(self._mend, vector, layer, to) for layer, to in wanted.items()}
        self._network.tap(source, self._images, taps)
        return vector

    def _mend(self, vector: Tensor, layer: str, wanted: Moments, out: Tensor) -> Tensor:
        """Return a layer's output with the wanted moments, and put the rescaling into `vector`."""
        own = moments(out, self._axes[layer])
        factor = torch.where(own.std > 0, wanted.std / own.std, 1.0)
        shift = wanted.mean - factor * own.mean
        entries = {entry.name: entry for entry in self._network.layout.parameters}
        weight, bias = (entries[f"{layer}.{key}"].view(vector) for key in ("weight", "bias"))
        weight.mul_(factor.view(-1, *[1] * (weight.dim() - 1)))
        bias.mul_(factor).add_(shift)
        shape = [1] * out.dim()
        shape[self._axes[layer]] = -1
        return out * factor.view(shape) + shift.view(shape)

    def _moments(self, name: str) -> dict[str, Moments]:
        """Return a model's moments by layer, in the order in which they run."""
        if name not in self._known:
            found: dict[str, Moments] = {}

            def see(layer: str, axis: int, out: Tensor) -> None:
                found[layer] = moments(out, axis)

            taps = {layer: partial(see, layer, axis) for layer, axis in self._axes.items()}
            self._network.tap(self._models[name], self._images, taps)
            self._known[name] = found
        return self._known[name]


def moments(out: Tensor, axis: int) -> Moments:
    """Return mean and standard deviation of each feature of a layer's output."""
    rows = out.float().movedim(axis, 0).flatten(1)
    return Moments(rows.mean(1), rows.std(1, correction=0))
