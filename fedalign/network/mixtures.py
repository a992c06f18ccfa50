"""Many mixtures of a few models through one network at once, on the same examples."""

from __future__ import annotations

import threading
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedalign.network.constants import constants
from fedalign.network.convolution import convolved, from_groups
from fedalign.network.device import autocast
from fedalign.network.kernels import Target
from fedalign.network.layout import Layout
from fedalign.network.stacked import LAYERS as STACKED
from fedalign.network.stacked_layers import StackedConv, StackedLinear
from fedalign.network.twins import POOLS, Layers, StackedLayer, stacked_twin

NOWHERE = Target(torch.empty(0), 0.0)


class Mixtures:
    """Runs K mixtures of M models in one pass through a twin of a module, without gradients.

    A layer that sees the examples themselves is linear in its weights, and its input is the same
    for all models. So its output for a mixture is the mixture of its outputs for the models: it
    runs M times and not K times. Layers of constants before it run once.

    Args:
        spread: the network itself gets the examples of all mixtures, for one that adds what all
            mixtures share to what they do not.

    Attributes:
        count: K, of the models that were loaded.
        bf16: forward passes run under autocast.
        examples: empty, since nothing trains.
        smallest: 0, likewise.
    """

    def __init__(self, module: nn.Module, layout: Layout, bf16: bool = False, spread: bool = False):
        self._spreads = spread
        self.bf16, self.examples, self.smallest = bf16, torch.empty(0), 0
        self._entries = {entry.name: entry for entry in layout.entries}
        self._constants = constants(module)
        self._batch = threading.local()  # threads have batches of their own
        self.twin = stacked_twin(module, self, LAYERS).eval()
        chains = [chain for chain in self.twin.modules() if isinstance(chain, nn.Sequential)]
        for before, layer in (pair for chain in chains for pair in pairwise(chain)):
            if isinstance(layer, nn.ReLU) and isinstance(before, (StackedLayer, *POOLS)):
                layer.inplace = True  # nothing else reads its input

    def load(self, models: Tensor, shares: Tensor | None) -> None:
        """Take the models to run.

        Args:
            models: `(M, F)`, finite.
            shares: `(K, M)`, the weight of each model in each mixture; a row adds up to 1. None:
                the models themselves, K = M.
        """
        self._models, self._shares = models, shares
        self.count = len(models if shares is None else shares)
        self._mixed: dict[str, Tensor] = {}

    @torch.no_grad()
    def logits(self, inputs: Tensor) -> Tensor:
        """Return each mixture's logits for inputs `(B, …)`: `(K, B, classes)`, float32."""
        self._batch.size = len(inputs)
        with autocast(inputs.device, self.bf16):
            own = self.spread(inputs) if self._spreads else inputs
            logits: Tensor = self.twin(own).float()
        return logits.view(self.count, len(inputs), -1)

    def parameter(self, name: str) -> tuple[Tensor, Target]:
        """Return a parameter of all mixtures, `(K, …)`; no gradient is asked for."""
        return self.buffer(name), NOWHERE

    def buffer(self, name: str) -> Tensor:
        """Return a tensor of all mixtures, `(K, …)`, mixed when it is first asked for."""
        if name in self._constants:
            return self._repeated(name, self.count)
        if name not in self._mixed:
            entry = self._entries[name]
            own = self._models[:, entry.start : entry.stop]
            mixed = own if self._shares is None else self._shares @ own
            self._mixed[name] = replace(entry, start=0).view(mixed)
        return self._mixed[name]

    def batch_size(self) -> int:
        """Return B, of this thread's batch."""
        return int(self._batch.size)

    def are_examples(self, x: Tensor) -> bool:
        """Return whether a layer's input is the examples themselves: `(B, …)`, not `(K * B, …)`."""
        return len(x) == self.batch_size()

    def spread(self, x: Tensor) -> Tensor:
        """Return a layer's input as `(K * B, …)`, with a copy of the examples for each mixture."""
        if not self.are_examples(x):
            return x
        return x.expand(self.count, *x.shape).flatten(0, 1)

    def of_models(self, name: str) -> Tensor:
        """Return a parameter of all models, `(M, …)`."""
        if name in self._constants:
            return self._repeated(name, len(self._models))
        return self._entries[name].view(self._models)

    def _repeated(self, name: str, count: int) -> Tensor:
        own = self._constants[name]
        return own.expand(count, *own.shape)

    def mixed(self, outputs: Tensor) -> Tensor:
        """Return the mixtures `(K * B, …)` of a layer's outputs for the models, `(M, B, …)`."""
        if self._shares is not None:
            outputs = (self._shares @ outputs.flatten(1)).view(-1, *outputs.shape[1:])
        return outputs.flatten(0, 1)


class Spread(StackedLayer):
    """A stacked layer that may also see the examples themselves."""

    weights: Mixtures

    def forward(self, x: Tensor) -> Any:
        """Return what the layer makes of each mixture's examples."""
        return super().forward(self.weights.spread(x))


class MixedLinear(StackedLinear):
    """`StackedLinear`, of which the first in a network runs M times."""

    weights: Mixtures

    def forward(self, x: Tensor) -> Tensor:
        """Return what each mixture makes of its own rows, or of those that all share."""
        if not self.weights.are_examples(x):
            return super().forward(x)
        y = functional.linear(x, *_rows(self))
        y = y.view(*x.shape[:-1], -1, self.out_features).movedim(-2, 0)
        return self.weights.mixed(y)


class _MixedConv(StackedConv):
    """A stacked convolution, of which the first in a network runs M times."""

    weights: Mixtures
    out_channels: int

    def forward(self, x: Tensor) -> Tensor:
        """Return each mixture's convolution of its own examples, or of those that all share."""
        one = self.weights.count == 1  # of which all inputs look like examples
        if one or not self.weights.are_examples(x) or self.groups > 1:
            return super().forward(self.weights.spread(x))
        x, how = self.padded(x)
        y = convolved(x, *_rows(self), how)
        y = from_groups(y, y.shape[1] // self.out_channels)
        return self.weights.mixed(y.view(-1, len(x), *y.shape[1:]))


def _rows(layer: MixedLinear | _MixedConv) -> tuple[Tensor, Tensor | None]:
    """Return weight `(M * O, …)` and bias `(M * O,)` of a layer in all models."""
    weight, bias = (
        layer.weights.of_models(layer.names[name]) if name in layer.names else None
        for name in ("weight", "bias")
    )
    assert weight is not None
    return weight.flatten(0, 1), None if bias is None else bias.flatten()


def _mixed(kind: type[StackedLayer]) -> type[StackedLayer]:
    """Return what a stacked layer becomes in a mixture."""
    base = _MixedConv if issubclass(kind, StackedConv) else Spread
    return type(kind.__name__, (base, kind), {})


LAYERS: Layers = {
    kind: MixedLinear if stacked is StackedLinear else _mixed(stacked)
    for kind, stacked in STACKED.items()
    if not issubclass(kind, nn.RNNBase | nn.MultiheadAttention)  # whose first axis may be time
}
