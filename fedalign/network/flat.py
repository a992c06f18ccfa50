"""Models whose records are views of one vector, which is copied to another device when needed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from flwr.app import Array, ArrayRecord
from torch import Tensor

from fedalign.network.arrays import Form, LazyArray, Storage, record_of
from fedalign.network.device import fetch, send

if TYPE_CHECKING:
    from fedalign.network.layout import Entry, Layout

HOST = torch.device("cpu")
MANY = 1 << 30  # numbers of models that may be on a device beside what trains


class Flat:
    """A model as a vector.

    Args:
        layout: says which tensor is where.
        vector: `(F,)`, on any device; must not change afterwards.

    Attributes:
        device: the one it was made on.
        dtype: of the numbers.
    """

    def __init__(self, layout: Layout, vector: Tensor):
        self.layout, self.device = layout, vector.device
        self.dtype: np.dtype = vector.new_empty(0, device=HOST).numpy().dtype
        self._vectors = {vector.device: vector}

    def on(self, device: torch.device) -> Tensor:
        """Return the vector on a device, to which it is copied once; not to be changed."""
        if device not in self._vectors:
            vector = self._vectors[self.device]
            self._vectors[device] = fetch(vector) if device == HOST else send(vector, device)
        return self._vectors[device]

    def record(self, counters: Mapping[str, Array]) -> ArrayRecord:
        """Return Flower's record of the model, with `counters` as its integer buffers."""
        named = {entry.name: LazyArray(Part(self, entry)) for entry in self.layout.entries}
        return record_of({**named, **counters})


class Part(Storage):
    """The memory of a tensor of a model, whose values come to the host once they are asked for."""

    __slots__ = ("_values", "entry", "flat")

    def __init__(self, flat: Flat, entry: Entry):
        self.flat, self.entry, self.data = flat, entry, None
        self._values: np.ndarray | None = None

    @property
    def form(self) -> Form:
        """The dtype, the shape and the order of axes of the values."""
        return self.flat.dtype, self.entry.shape, "C"

    @property
    def values(self) -> np.ndarray:
        """The values, in the order in which they are sent."""
        if self._values is None:
            values = self.entry.view(self.flat.on(HOST)).contiguous().numpy().view()
            values.flags.writeable = False
            self._values = values
        return self._values

    @values.setter
    def values(self, values: np.ndarray) -> None:
        self._values = values


def flat_of(record: ArrayRecord, layout: Layout) -> Flat | None:
    """Return the float32 model that a record was made of in this process; None if there is none."""
    found: Flat | None = None
    for entry in layout.entries:
        array = record.get(entry.name)
        part = array.storage if isinstance(array, LazyArray) else None
        if not isinstance(part, Part) or part.entry != entry or (found and part.flat is not found):
            return None
        found = part.flat
    if found is None or found.layout != layout or found.dtype != np.float32:
        return None
    return found
