"""Copies of a module that run with K sets of weights at once.

Inputs hold the batches of all K models one after the other, `(K * B, …)`. Layers with weights
become layers that ask `Weights` for them in each forward pass; so do a module's own parameters.
Everything else treats examples one by one and stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from fedalign.network.constants import copied, trained
from fedalign.network.kernels import Target, leaf


class Weights(Protocol):
    """Supplies stacked layers with the tensors of K models.

    Attributes:
        examples: `(K, B)` bool, which examples count in training; the others fill up a batch.
        smallest: the smallest number of examples that count, of the models that have any; 0 where
            the host does not know it.
    """

    examples: Tensor
    smallest: int

    def parameter(self, name: str) -> tuple[Tensor, Target | None]:
        """Return a parameter's `(K, …)` view, and where its gradient goes; None for a constant."""
        ...

    def buffer(self, name: str) -> Tensor:
        """Return a float buffer's `(K, …)` view."""
        ...

    def batch_size(self) -> int:
        """Return B, of the forward pass that runs."""
        ...


class StackedLayer(nn.Module):
    """What stacked layers have in common: their tensors, by the names that the layer gives them.

    A stacked layer is a copy of a layer with another `forward`. It has the layer's options and
    hooks, and parameters without entries, since a module may ask for their device or dtype.

    Attributes:
        known: the parameters that `forward` uses; a layer with others is not stacked.
        weights: supplies the tensors.
        names: of parameters and buffers in the whole model, by their names in the layer.
    """

    known: ClassVar[set[str]] = {"weight", "bias"}
    weights: Weights
    names: dict[str, str]

    def is_plain(self) -> bool:
        """Return whether `forward` knows the options of the layer."""
        return True

    def with_target(self, name: str) -> tuple[Any, Any]:
        """Return a parameter `(K, …)` and where its gradient goes; None where it has none."""
        return self.weights.parameter(self.names[name]) if name in self.names else (None, None)

    def parameter(self, name: str) -> Tensor:
        """Return a parameter `(K, …)`, through which autograd finds where its gradient goes."""
        weight, target = self.weights.parameter(self.names[name])
        found: Tensor = weight if target is None else leaf(weight, target)
        return found

    def buffer(self, name: str) -> Tensor:
        """Return a float buffer `(K, …)`."""
        return self.weights.buffer(self.names[name])


POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d)

Layers = Mapping[type[nn.Module], type[StackedLayer]]
"""The stacked form of each type of layer."""


def stacked_twin(module: nn.Module, weights: Weights, layers: Layers) -> nn.Module:
    """Return a copy of a module, whose parameters and stacked layers come from `weights`.

    `layers` has their stacked forms. `TypeError` names a layer that has none, but parameters that
    are not the same for all examples. A layer that has only constants, which are the same in all
    models, runs as it is.
    """
    names = {id(p): name for name, p in module.named_parameters()}
    nothing = {id(p): nn.Parameter(p.new_empty(0)) for p in trained(module).values()}
    twin = copied(module, dict(nothing))
    pairs = list(zip(module.named_modules(), twin.modules(), strict=True))
    for (prefix, layer), other in pairs:
        own = {key: names[id(p)] for key, p in layer.named_parameters(recurse=False)}
        place = place_of(prefix, layer)
        if own and _is_constant(layer):
            continue
        if type(layer) in layers:
            _become(other, layers[type(layer)], weights, own, prefix)
            if (
                not isinstance(other, StackedLayer)
                or not other.is_plain()
                or own.keys() - other.known
            ):
                raise TypeError(f"{place} has options that cannot be stacked")
        elif own := {key: own[key] for key in trained(layer) if key in own}:
            _require_broadcast(layer, own, place)
            other.__class__ = _expanding(type(layer), weights, own)
    _pool_first(twin)
    return twin


def _pool_first(twin: nn.Module) -> None:
    """Let chains pool before they rectify, which is the same to the bit and touches less memory.

    The largest of rectified numbers is the largest of them, rectified. A gradient goes to the same
    number: the first of the largest, unless that is not positive.
    """
    for chain in twin.modules():
        if not isinstance(chain, nn.Sequential) or type(chain).forward is not nn.Sequential.forward:
            continue
        for place in range(len(chain) - 1):
            relu, pool = chain[place], chain[place + 1]
            if type(relu) is nn.ReLU and type(pool) in POOLS and _may_swap(relu, pool):
                chain[place], chain[place + 1] = pool, relu


def _may_swap(relu: nn.Module, pool: Any) -> bool:
    """Return whether nothing but the next layer sees what these put out, and it is one tensor."""
    hooks = any(own._forward_hooks or own._forward_pre_hooks for own in (relu, pool))
    return not hooks and not pool.return_indices and pool.dilation == 1


def _is_constant(layer: nn.Module) -> bool:
    """Return whether nothing in a layer differs between models."""
    return not trained(layer) and not any(True for _ in layer.buffers())


def _become(
    layer: nn.Module, kind: type[StackedLayer], weights: Weights, own: dict[str, str], prefix: str
) -> None:
    """Turn a copy of a layer into its stacked form."""
    buffers = {key: f"{prefix}.{key}".lstrip(".") for key, _ in layer.named_buffers(recurse=False)}
    for key in buffers:
        setattr(layer, key, getattr(layer, key).new_empty(0))
    layer.__class__ = kind
    layer.weights, layer.names = weights, own | buffers  # type: ignore[assignment]


def place_of(prefix: str, layer: nn.Module) -> str:
    """Return a layer's name and options; of a module with layers inside, its class."""
    if not prefix:
        return f"the model's {type(layer).__name__}"
    whole = str(layer)
    return f"layer {prefix!r} ({type(layer).__name__ if chr(10) in whole else whole})"


def _require_broadcast(module: nn.Module, own: Iterable[str], place: str) -> None:
    """Raise `TypeError` for a module's own parameter that is not the same for all examples."""
    for key in own:
        parameter = getattr(module, key)
        if parameter.shape[:1] != (1,):
            shape = tuple(parameter.shape)
            raise TypeError(f"{place} has a parameter {key!r} {shape} that cannot be stacked")


def _expanding(kind: type[nn.Module], weights: Weights, own: dict[str, str]) -> type[nn.Module]:
    """Return a module's class whose own parameters `(1, …)` are expanded to `(K * B, …)`."""

    def expanded(name: str) -> property:
        def get(_: nn.Module) -> Tensor:
            parameter: Tensor = leaf(*weights.parameter(name))  # (K, 1, …), no constant
            shape = (-1, weights.batch_size(), *parameter.shape[2:])
            return parameter.expand(shape).flatten(0, 1)

        return property(get)

    return type(kind.__name__, (kind,), {key: expanded(name) for key, name in own.items()})
