"""Which neurons of a network can be exchanged without changing the function it computes.

This is the permutation specification of Git Re-Basin (Ainsworth et al. 2023, arXiv 2209.04836,
section 2): for each group of exchangeable neurons, the positions along the axes of tensors that
each neuron owns.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from torch import nn

from fedalign.errors import InputError, named, nearest
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
        tensor: name of a parameter or float buffer in the model.
        axis: axis of that tensor.
        at: `(n, r)`; neuron i owns the positions `at[i]` along the axis. r > 1 if a neuron has
            several entries, such as the pixels of a feature map after a flatten or the rows of a
            head.
    """

    tensor: str
    axis: int
    at: np.ndarray


@dataclass(frozen=True, eq=False)
class Seen:
    """Where the activations of a group can be observed: in the output of a module.

    Attributes:
        module: name of the module in the model.
        axis: axis of channels or features in the output; axis 0 holds the examples.
        at: `(n, r)`, as in `Place`.
    """

    module: str
    axis: int
    at: np.ndarray


@dataclass(frozen=True, eq=False)
class Group:
    """Neurons that can be permuted freely, as long as all their places are permuted together.

    Several groups may own positions on the same axis; they are applied one after another.

    Attributes:
        name: name in messages and tables.
        size: n, the number of neurons.
        places: everything that they own.
        seen: where they can be observed; None if nowhere.
    """

    name: str
    size: int
    places: tuple[Place, ...]
    seen: Seen | None = None


@dataclass
class Neurons:
    """Builder of a `Group`: collects what a layer's neurons own while a network is traversed.

    Here is the hidden layer of an MLP:

    >>> fc1, fc2 = nn.Linear(4, 3), nn.Linear(3, 2)
    >>> hidden = Neurons("hidden", 3)
    >>> hidden.own(fc1, "fc1")
    >>> hidden.feed(fc2, "fc2")
    >>> (group,) = hidden.groups()
    >>> [(place.tensor, place.axis) for place in group.places]
    [('fc1.weight', 0), ('fc1.bias', 0), ('fc2.weight', 1)]

    Attributes:
        name: name of the group.
        size: n, the number of neurons.
        seen: where they can be observed; None if nowhere.
    """

    name: str
    size: int
    seen: Seen | None = None
    _places: list[Place] = field(default_factory=list)
    _labels: list[np.ndarray] = field(default_factory=list)

    def own(self, layer: nn.Module, name: str, at: np.ndarray | None = None) -> None:
        """Add the outputs of a layer: rows of its weight, bias, norm terms and statistics.

        Args:
            layer: linear layer, convolution or norm; one without weights adds nothing.
            name: name of the layer in the model.
            at: `(n, r)` positions among its outputs; None for all of them, in order.
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
        """Add the inputs of a layer, the columns of its weight; arguments as in `own`."""
        place = self._all(layer.weight.shape[1]) if at is None else at
        self._places.append(Place(f"{name}.weight", 1, place))

    def watch(self, module: str, at: np.ndarray | None = None, axis: int = 1) -> None:
        """Set the module in whose output the neurons are observed; `at` and `axis` as in `Seen`."""
        self.seen = Seen(module, axis, self._all(self.size) if at is None else at)

    def groups(self) -> tuple[Group, ...]:
        """Return the neurons as one group, or as one group for each norm group of a GroupNorm."""
        whole = Group(self.name, self.size, tuple(self._places), self.seen)
        return split(whole, np.concatenate(self._labels, axis=1)) if self._labels else (whole,)

    def _all(self, positions: int) -> np.ndarray:
        """Return the positions of each neuron `(n, r)`: channel-major, as after a flatten."""
        return np.arange(positions).reshape(self.size, -1)


def symmetry(module: nn.Module) -> tuple[Group, ...]:
    """Return the groups of exchangeable neurons of a model, from its input to its output.

    If the module has a method `symmetry()`, that returns them; users' own modules may have one.
    For an `nn.Sequential` of linear layers, convolutions, norms, activations and pooling they are
    derived. For any other module, as for a model without hidden neurons, the result is `()`.

    Raises:
        InputError: The module's method fails, or returns positions that the module does not have.
    """
    if isinstance(module, HasSymmetry):
        with named(f"{type(module).__name__}.symmetry()"):
            groups = tuple(module.symmetry())
            for group in groups:
                _check(group, module)
        return groups
    return _chain(module) if _is_sequential(module) else ()


def stranger(module: nn.Module) -> str:
    """Return why nothing is known of a module's neurons, with the layer by name; else ""."""
    if isinstance(module, HasSymmetry):
        return "its method symmetry() returns nothing"
    if not _is_sequential(module):
        return f"{type(module).__name__} is no nn.Sequential"
    seen: dict[int, str] = {}
    for name, layer in _layers(module):
        if not _is_known(layer):
            kind = type(layer).__name__ if any(layer.children()) else layer
            return f"it is not known what layer {name!r} ({kind}) does with them"
        if (first := seen.setdefault(id(layer), name)) != name:
            return f"layers {first!r} and {name!r} are one"
    return "it has no hidden ones"


def split(group: Group, labels: np.ndarray) -> tuple[Group, ...]:
    """Return one group for each set of neurons with equal labels `(n,)` or `(n, l)`.

    GroupNorm needs this: neurons can only be exchanged within a norm group.
    """
    kinds, kind_of = np.unique(labels.reshape(group.size, -1), axis=0, return_inverse=True)
    sets = [np.flatnonzero(kind_of.ravel() == kind) for kind in range(len(kinds))]
    return tuple(_part(group, f"{group.name}/{number}", rows) for number, rows in enumerate(sets))


def lies_in(inner: Group, group: Group) -> bool:
    """Return whether everything `inner` moves lies inside one neuron of `group`, such as a head."""
    rows = {(place.tensor, place.axis): place.at for place in group.places}
    return inner is not group and all(
        any(np.isin(place.at, row).all() for row in rows.get((place.tensor, place.axis), ()))
        for place in inner.places
    )


def _part(group: Group, name: str, rows: np.ndarray) -> Group:
    places = tuple(Place(place.tensor, place.axis, place.at[rows]) for place in group.places)
    seen = group.seen and Seen(group.seen.module, group.seen.axis, group.seen.at[rows])
    return Group(name, len(rows), places, seen)


def _check(group: Group, module: nn.Module) -> None:
    """Raise `InputError` if a group owns nothing, or positions that the module does not have."""
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    where = f"{type(module).__name__}.symmetry(): group {group.name!r}"
    if not group.places:
        raise InputError(f"{where} owns no tensor")
    if group.seen and group.seen.module not in dict(module.named_modules()):
        raise InputError(f"{where} is seen in {group.seen.module!r}, which the model does not have")
    for place in group.places:
        if place.tensor not in shapes:
            raise InputError(f"{where}: no tensor {place.tensor!r}{nearest(place.tensor, shapes)}")
        at, axis, shape = place.at, place.axis, shapes[place.tensor]
        fits = axis < len(shape) and at.ndim == 2 and len(at) == group.size
        once = len(np.unique(at)) == at.size
        if not (fits and once and 0 <= at.min() <= at.max() < shape[axis]):
            raise InputError(
                f"{where}: {group.size} neurons, {at.shape} positions on axis {axis} of "
                f"{place.tensor!r} {shape}; `at` needs one row per neuron, and each position along "
                "the axis at most once"
            )


def _is_sequential(module: nn.Module) -> bool:
    return isinstance(module, nn.Sequential) and type(module).forward is nn.Sequential.forward


def _layers(chain: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Yield the layers of a chain in the order of the forward pass, including inner chains."""
    for key, layer in chain._modules.items():
        assert layer is not None
        if _is_sequential(layer):
            yield from _layers(layer, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", layer


def _is_known(layer: nn.Module) -> bool:
    """Return whether it is known what a layer does with neurons."""
    if isinstance(layer, nn.Conv2d):
        return layer.groups == 1
    if isinstance(layer, nn.Flatten):
        return layer.start_dim == 1
    return isinstance(layer, (*WEIGHTED, *NORMS, *ACTIVATIONS, *PASSED))


def _chain(module: nn.Module) -> tuple[Group, ...]:
    """Return the groups of a chain; `()` if a layer is unknown or occurs twice."""
    groups: list[Group] = []
    hidden: Neurons | None = None
    flat, layers = False, list(_layers(module))
    if len({id(layer) for _, layer in layers}) < len(layers):
        return ()
    if not all(_is_known(layer) for _, layer in layers):
        return ()
    for name, layer in layers:
        if isinstance(layer, WEIGHTED):
            if hidden is not None:
                hidden.feed(layer, name)
                groups += hidden.groups()
            hidden, flat = Neurons(name, len(layer.weight)), False
            hidden.own(layer, name)
        elif isinstance(layer, NORMS):
            if hidden is not None:
                hidden.own(layer, name)
        elif isinstance(layer, nn.Flatten):
            flat = True  # from here on a neuron is several features instead of one channel
        if hidden is not None and not flat and isinstance(layer, (*WEIGHTED, *NORMS, *ACTIVATIONS)):
            hidden.watch(name)
    return tuple(groups)
