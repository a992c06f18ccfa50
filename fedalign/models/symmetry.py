"""Which neurons of a network may change places without changing what it computes.

The table of Git Re-Basin (Ainsworth et al. 2023, arXiv 2209.04836, section 2): for each group of
exchangeable neurons, which positions along which axes of which tensors a neuron owns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from torch import nn

from fedalign.errors import InputError, nearest
from fedalign.settings.contracts import HasSymmetry

WEIGHTED = (nn.Linear, nn.Conv2d)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.GroupNorm)
ACTIVATIONS = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Softplus, nn.Tanh, nn.Sigmoid, nn.Hardswish, nn.Hardtanh),
)
PASSED = (
    *(nn.Identity, nn.Dropout, nn.Dropout2d),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveMaxPool2d, nn.AdaptiveAvgPool2d),
)


@dataclass(frozen=True, eq=False)
class Place:
    """Where the neurons of a group lie in one tensor.

    Attributes:
        tensor: a parameter or float buffer, by its name in the model.
        axis: of that tensor.
        at: `(n, r)`; neuron i owns the positions `at[i]` along the axis. r > 1 where a neuron is
            several entries: the places of a feature map behind a flatten, the rows of a head.
    """

    tensor: str
    axis: int
    at: np.ndarray


@dataclass(frozen=True, eq=False)
class Seen:
    """Where the activations of a group can be watched: in the output of a module.

    Attributes:
        module: its name in the model.
        axis: of channels or features in the output, whose axis 0 are the examples.
        at: `(n, r)`, as in `Place`.
    """

    module: str
    axis: int
    at: np.ndarray


@dataclass(frozen=True, eq=False)
class Group:
    """Neurons that may be exchanged at will, if everywhere at once.

    Several groups may own positions of one axis; they are applied one after the other.

    Attributes:
        name: for messages and tables.
        size: n, how many neurons.
        places: all that they own.
        seen: where they can be watched; None: nowhere.
    """

    name: str
    size: int
    places: tuple[Place, ...]
    seen: Seen | None = None


@dataclass
class Neurons:
    """A layer's neurons on the way to a group: what they own is added as a network is read.

    Attributes:
        name: of the group.
        size: n, how many neurons.
    """

    name: str
    size: int
    seen: Seen | None = None
    _places: list[Place] = field(default_factory=list)
    _labels: list[np.ndarray] = field(default_factory=list)

    def own(self, layer: nn.Module, name: str, at: np.ndarray | None = None) -> None:
        """Add the outputs of a layer: rows of its weight, bias, norm terms and statistics.

        Args:
            layer: linear, convolution or norm; one without weights adds nothing.
            name: the layer's, in the model.
            at: `(n, r)` positions among its outputs; None: all of them, in order.
        """
        tensors = dict(layer.named_parameters(recurse=False)) | dict(layer.named_buffers())
        for key, tensor in tensors.items():
            if tensor.is_floating_point():
                place = self._all(len(tensor)) if at is None else at
                self._places.append(Place(f"{name}.{key}", 0, place))
        if isinstance(layer, nn.GroupNorm):
            place = self._all(layer.num_channels) if at is None else at
            self._labels.append(place // (layer.num_channels // layer.num_groups))

    def feed(self, layer: nn.Linear | nn.Conv2d, name: str, at: np.ndarray | None = None) -> None:
        """Add the inputs of a layer, the columns of its weight; arguments as for `own`."""
        place = self._all(layer.weight.shape[1]) if at is None else at
        self._places.append(Place(f"{name}.weight", 1, place))

    def watch(self, module: str, at: np.ndarray | None = None, axis: int = 1) -> None:
        """Say in which module's output they are seen."""
        self.seen = Seen(module, axis, self._all(self.size) if at is None else at)

    def groups(self) -> tuple[Group, ...]:
        """Return the neurons as one group, or one for each set that no GroupNorm keeps apart."""
        whole = Group(self.name, self.size, tuple(self._places), self.seen)
        return split(whole, np.concatenate(self._labels, axis=1)) if self._labels else (whole,)

    def _all(self, positions: int) -> np.ndarray:
        """Return who owns which of all positions: channel-major, as a flatten leaves them."""
        return np.arange(positions).reshape(self.size, -1)


def symmetry(module: nn.Module) -> tuple[Group, ...]:
    """Return the groups of exchangeable neurons of a model, from its input to its output.

    A module with a method `symmetry()` answers itself, so do users' own. Of an `nn.Sequential` of
    linear layers, convolutions, norms, activations and pooling they are derived. Of any other
    module nothing is known: `()`, as for a model without hidden neurons.

    Raises:
        InputError: a module answers with what it does not have.
    """
    if isinstance(module, HasSymmetry):
        groups = tuple(module.symmetry())
        for group in groups:
            _check(group, module)
        return groups
    return _chain(module) if _is_sequential(module) else ()


def split(group: Group, labels: np.ndarray) -> tuple[Group, ...]:
    """Return one group for each set of neurons with equal labels `(n,)` or `(n, l)`.

    So a GroupNorm does it: neurons may be exchanged within a norm group only.
    """
    kinds, kind_of = np.unique(labels.reshape(group.size, -1), axis=0, return_inverse=True)
    sets = [np.flatnonzero(kind_of.ravel() == kind) for kind in range(len(kinds))]
    return tuple(_part(group, f"{group.name}/{number}", own) for number, own in enumerate(sets))


def lies_in(inner: Group, group: Group) -> bool:
    """Return whether all that one group moves lies inside one neuron of another: of a head, say."""
    rows = {(place.tensor, place.axis): place.at for place in group.places}
    return inner is not group and all(
        any(np.isin(place.at, row).all() for row in rows.get((place.tensor, place.axis), ()))
        for place in inner.places
    )


def _part(group: Group, name: str, own: np.ndarray) -> Group:
    places = tuple(Place(place.tensor, place.axis, place.at[own]) for place in group.places)
    seen = group.seen and Seen(group.seen.module, group.seen.axis, group.seen.at[own])
    return Group(name, len(own), places, seen)


def _check(group: Group, module: nn.Module) -> None:
    """Raise `InputError` if a group owns nothing, or what the module does not have."""
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    place = f"{type(module).__name__}.symmetry(): group {group.name!r}"
    if not group.places:
        raise InputError(f"{place} owns no tensor")
    for own in group.places:
        if own.tensor not in shapes:
            raise InputError(f"{place}: no tensor {own.tensor!r}{nearest(own.tensor, shapes)}")
        shape = shapes[own.tensor]
        found = f"{group.size} neurons, {own.at.shape} positions on axis {own.axis}"
        fits = own.axis < len(shape) and own.at.ndim == 2 and len(own.at) == group.size
        once = len(np.unique(own.at)) == own.at.size
        if not (fits and once and 0 <= own.at.min() <= own.at.max() < shape[own.axis]):
            raise InputError(
                f"{place}: {found} of {own.tensor!r} {shape}; `at` has a row a neuron, and each "
                "position along the axis once at most"
            )


def _is_sequential(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _layers(chain: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers of a chain in the order of the forward pass, those of inner chains too."""
    for key, layer in chain._modules.items():
        assert layer is not None
        if _is_sequential(layer):
            yield from _layers(layer, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", layer


def _chain(module: nn.Module) -> tuple[Group, ...]:
    """Return the groups of a chain; `()` if a layer is not known, or stands in it twice."""
    groups: list[Group] = []
    hidden: Neurons | None = None
    flat, layers = False, list(_layers(module))
    if len({id(layer) for _, layer in layers}) < len(layers):
        return ()
    for name, layer in layers:
        if isinstance(layer, WEIGHTED) and getattr(layer, "groups", 1) == 1:
            if hidden is not None:
                hidden.feed(layer, name)
                groups += hidden.groups()
            hidden, flat = Neurons(name, len(layer.weight)), False
            hidden.own(layer, name)
        elif isinstance(layer, NORMS):
            if hidden is not None:
                hidden.own(layer, name)
        elif isinstance(layer, nn.Flatten) and layer.start_dim == 1:
            flat = True  # behind it a neuron is several features, before it one channel
        elif not isinstance(layer, (*ACTIVATIONS, *PASSED)):
            return ()
        if hidden is not None and not flat and isinstance(layer, (*WEIGHTED, *NORMS, *ACTIVATIONS)):
            hidden.watch(name)
    return tuple(groups)
