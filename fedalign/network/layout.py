"""The layout of a model as one flat vector, to and from a module and Flower's ArrayRecord.

The vector `(F,)` holds the parameters first, in its part `(P,)`, then the floating-point buffers
(BatchNorm statistics). Masks, optimisers and interpolation work on it; only forward and backward
need the named tensors, which are views of it. Every tensor begins at a multiple of `ALIGNMENT`; the
gaps are padding, which is always 0. Padding is neither sent nor stored: see `Layout.compact`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from fedalign.network.arrays import record_of, view_of
from fedalign.network.constants import constants, trained
from fedalign.network.flat import Flat

ALIGNMENT = 16
"""Numbers, 64 bytes of float32: kernels of cuDNN fail on tensors that begin elsewhere."""


@dataclass(frozen=True)
class Entry:
    """One tensor of a model, and where it starts in the flat vector.

    >>> entry = Entry("bias", (2,), 3)
    >>> entry.view(torch.arange(6.0))
    tensor([3., 4.])
    """

    name: str
    shape: tuple[int, ...]
    start: int

    @property
    def stop(self) -> int:
        """Where the tensor ends; padding may follow."""
        return self.start + prod(self.shape)

    def view(self, vector: Tensor) -> Tensor:
        """Return this tensor as a view of `vector` `(F,)`, or of a stack of them `(K, F)`.

        Kernels of convolutions are stored channels-last, which cuts the time of forward and
        backward on a CPU to a third.
        """
        part, stack = vector[..., self.start : self.stop], vector.shape[:-1]
        if len(self.shape) != 4:
            return part.view((*stack, *self.shape))
        out, channels, height, width = self.shape
        return part.view(*stack, out, height, width, channels).movedim(-1, -3)


@dataclass(frozen=True)
class Layout:
    """Which tensor of a model is where in its flat vector; hashable, so that masks can be cached.

    Attributes:
        parameters: what the optimiser trains; a tensor used twice (tied weights) is listed once.
            Those with `requires_grad=False` are constants of the module, which no vector holds.
        buffers: floating-point buffers, after the parameters.
        counters: names of integer buffers. No vector holds them, since they are never averaged.
        aliases: further names of tensors that are listed once, and the name that is listed.
        transient: names of buffers that the module's state dict leaves out.
    """

    parameters: tuple[Entry, ...]
    buffers: tuple[Entry, ...]
    counters: tuple[str, ...]
    aliases: tuple[tuple[str, str], ...] = ()
    transient: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: nn.Module) -> Layout:
        """Return the layout of a model; `TypeError` for parameters that cannot be trained."""
        _check(model)
        parameters = _place(trained(model).items(), 0)
        buffers = [(name, b) for name, b in model.named_buffers() if b.is_floating_point()]
        counters = [name for name, b in model.named_buffers() if not b.is_floating_point()]
        return cls(
            parameters, _place(buffers, _end(parameters)), tuple(counters), *_names_of(model)
        )

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All tensors in the vector, in order."""
        return self.parameters + self.buffers

    @property
    def num_parameters(self) -> int:
        """The number of weights, without padding."""
        return _count(self.parameters)

    @property
    def num_values(self) -> int:
        """The number of values of all tensors, without padding: what a message holds."""
        return _count(self.entries)

    @property
    def parameter_size(self) -> int:
        """P, the length of the vector's part with the parameters, padding included."""
        return _end(self.parameters)

    @property
    def size(self) -> int:
        """F, the length of the vector, padding included."""
        return _end(self.entries)

    @property
    def layers(self) -> list[list[Entry]]:
        """The model's layers: each a weight matrix or kernel, with its bias and norm terms.

        Those are the vectors behind it, in the order of the module, with as many entries as it has
        output units.
        """
        found: list[list[Entry]] = []
        for entry in self.parameters:
            terms = found and len(entry.shape) == 1 and entry.shape[0] == found[-1][0].shape[0]
            if terms:
                found[-1].append(entry)
            else:
                found.append([entry])
        return found

    def flatten(self, model: nn.Module) -> Tensor:
        """Return a copy of a model's tensors as a vector `(F,)`."""
        tensors = self._tensors(model)
        vector = torch.zeros(self.size, device=tensors[0].device)
        for entry, tensor in zip(self.entries, tensors, strict=True):
            entry.view(vector).copy_(tensor.detach())
        return vector

    def bind(self, model: nn.Module, vector: Tensor) -> None:
        """Make a model's parameters and float buffers views of `vector` `(F,)`, without a copy."""
        for entry, tensor in zip(self.entries, self._tensors(model), strict=True):
            tensor.data = entry.view(vector)

    def bind_gradients(self, model: nn.Module, gradient: Tensor) -> None:
        """Make a model's gradients views of `gradient` `(P,)`: backward adds to it in place."""
        for entry, parameter in zip(self.parameters, trained(model).values(), strict=True):
            parameter.grad = entry.view(gradient)

    def to_record(self, vector: Tensor, counters: dict[str, Array]) -> ArrayRecord:
        """Return a vector `(F,)` as Flower's record, with `counters` as its integer buffers."""
        return Flat(self, vector.detach().clone()).record(counters)  # what it holds must not change

    def to_vector(self, record: ArrayRecord) -> Tensor:
        """Return a record as a vector `(F,)`; `ValueError` names an array that does not fit."""
        return self.fill(torch.zeros(self.size), record)

    def fill(self, vector: Tensor, record: ArrayRecord) -> Tensor:
        """Write a record into a vector `(F,)` whose padding is 0; `ValueError`: see `to_vector`."""
        for entry in self.entries:
            if entry.name not in record:
                raise ValueError(f"the message has no array {entry.name!r}; is it another model's?")
            array = record[entry.name]
            if tuple(array.shape) != entry.shape:
                raise ValueError(f"{entry.name!r} is {tuple(array.shape)}, not {entry.shape}")
            # NumPy's reader parses Python, which on 3.11 two threads must not do at once.
            np.copyto(entry.view(vector).numpy(), view_of(array), casting="same_kind")
        return vector

    def compact(self, vector: Tensor) -> Tensor:
        """Return a vector `(…, P)` or `(…, F)` without padding, as it is sent and stored.

        A tensor whose last axis has another length comes back as it is; clients may store such.
        """
        entries = {self.parameter_size: self.parameters, self.size: self.entries}
        inside = entries.get(vector.shape[-1] if vector.dim() else 0)
        if inside is None:
            return vector
        return torch.cat([vector[..., entry.start : entry.stop] for entry in inside], -1)

    def spread(self, values: Tensor) -> Tensor:
        """Return what `compact` was given, with padding of 0."""
        by_count = {_count(entries): entries for entries in (self.parameters, self.entries)}
        entries = by_count.get(values.shape[-1] if values.dim() else 0)
        if entries is None:
            return values
        vector = values.new_zeros(*values.shape[:-1], _end(entries))
        parts = torch.split(values, [entry.stop - entry.start for entry in entries], -1)
        for entry, part in zip(entries, parts, strict=True):
            vector[..., entry.start : entry.stop] = part
        return vector

    def counters_of(self, record: ArrayRecord) -> dict[str, Array]:
        """Return the integer buffers in a record."""
        return {name: record[name] for name in self.counters}

    def initial_record(self, model: nn.Module) -> ArrayRecord:
        """Return the record of a freshly built model, integer buffers included."""
        state = dict(model.named_buffers())
        counters = {name: Array(np.asarray(state[name].cpu())) for name in self.counters}
        return self.to_record(self.flatten(model), counters)

    def to_state(self, record: ArrayRecord, module: nn.Module) -> ArrayRecord:
        """Return a record as the module's state dict.

        It has every name of a tensor used twice, and the module's constants.
        """
        fixed = {name: Array(own.cpu().numpy()) for name, own in constants(module).items()}
        more = {own: record[name] for own, name in self.aliases if name in record}
        named = {**record, **fixed, **more}
        return record_of({n: array for n, array in named.items() if n not in self.transient})

    def _tensors(self, model: nn.Module) -> list[Tensor]:
        floats = [b for b in model.buffers() if b.is_floating_point()]
        return [*trained(model).values(), *floats]


def _names_of(model: nn.Module) -> tuple[tuple[tuple[str, str], ...], tuple[str, ...]]:
    """Return a layout's `aliases` and `transient`."""
    first: dict[int, str] = {}
    aliases: list[tuple[str, str]] = []
    fixed = constants(model)
    state = model.state_dict(keep_vars=True)
    for name, tensor in state.items():
        own = isinstance(tensor, Tensor) and name not in fixed
        if own and first.setdefault(id(tensor), name) != name:
            aliases.append((name, first[id(tensor)]))
    transient = [name for name, _ in model.named_buffers() if name not in state]
    return tuple(aliases), tuple(transient)


def _check(model: nn.Module) -> None:
    named = list(model.named_parameters())
    if not named:
        raise TypeError("it has no parameters to train")
    for name, parameter in named:
        if is_lazy(parameter):
            raise TypeError(f"parameter {name!r} has no shape yet; state its layer's inputs")
        if parameter.is_meta:
            raise TypeError(f"parameter {name!r} is on the device 'meta' and has no values")
        if parameter.dtype != torch.float32:
            raise TypeError(f"parameter {name!r} is {parameter.dtype}; fedalign trains float32")
    if not trained(model):
        raise TypeError("all of its parameters have requires_grad=False, so none of them trains")


def _place(named: Iterable[tuple[str, Tensor]], start: int) -> tuple[Entry, ...]:
    """Return entries for tensors that lie one after the other from `start`, each aligned."""
    entries: list[Entry] = []
    for name, tensor in named:
        entries.append(Entry(name, tuple(tensor.shape), _end(entries) if entries else start))
    return tuple(entries)


def _count(entries: Sequence[Entry]) -> int:
    """Return how many numbers tensors hold."""
    return sum(entry.stop - entry.start for entry in entries)


def _end(entries: Sequence[Entry]) -> int:
    """Return where the next tensor may begin."""
    return -(-entries[-1].stop // ALIGNMENT) * ALIGNMENT if entries else 0
