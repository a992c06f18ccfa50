"""How models travel: trained entries only, and in half precision if wanted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord
from torch import Tensor

from fedalign.messages.records import EXTRA
from fedalign.messages.validation import check_as_sent, check_names, values_of
from fedalign.network.arrays import view_of
from fedalign.network.layout import Entry, Layout

FLOATS = ("float16", "float32", "float64")


@dataclass(frozen=True)
class Codec:
    """How models travel: of a reply, the trained weights only; in half precision, if wanted.

    A server that sends float16 keeps its own float32 weights, and what comes back is the change,
    which it adds to those: rounding does not swallow small steps.

    Attributes:
        layout: the model's.
        half: parameters as float16, and extras in replies; buffers stay float32.
    """

    layout: Layout
    half: bool = False

    def shrink(self, arrays: ArrayRecord) -> ArrayRecord:
        """Return the global model as it is sent down."""
        if not self.half:
            return arrays
        names = {entry.name for entry in self.layout.parameters}
        return ArrayRecord(
            {
                name: Array(array.numpy().astype(np.float16)) if name in names else array
                for name, array in arrays.items()
            }
        )

    def pack(
        self, vector: Tensor, start: Tensor, mask: Tensor | None, counters: Mapping[str, Array]
    ) -> ArrayRecord:
        """Return the record of a model `(F,)` that was trained from `start` `(F,)`.

        With a mask `(P,)` each parameter tensor becomes the vector of its trained entries.
        """
        if mask is None and not self.half:
            return self.layout.to_record(vector, dict(counters))
        vector, start = vector.detach().cpu(), start.cpu()
        packed: dict[str, Array] = {}
        for entry in self.layout.parameters:
            values = entry.view(vector)
            if self.half:
                values = (values - entry.view(start)).half()
            values = values if mask is None else values[entry.view(mask)]
            packed[entry.name] = Array(values.contiguous().numpy())
        for entry in self.layout.buffers:
            packed[entry.name] = Array(entry.view(vector).numpy())
        return ArrayRecord({**packed, **counters})

    def pack_extra(self, vector: Tensor, mask: Tensor | None) -> Array:
        """Return what an algorithm sends about each parameter `(P,)`, the trained ones only."""
        values = (vector if mask is None else vector[mask.to(vector.device)]).cpu().numpy()
        return Array(values.astype(np.float16) if self.half else values)

    def unpack_extra(self, array: Array, mask: Tensor | None) -> Array:
        """Return it `(P,)`, float32, zeros for the fixed ones; `ValueError` if it cannot be."""
        with np.errstate(over="ignore"):
            came = values_of(EXTRA, array, FLOATS).astype(np.float32, copy=False)
        zeros = np.zeros(self.layout.num_parameters, np.float32)
        return Array(_placed(came, zeros, None if mask is None else mask.numpy(), EXTRA, False))

    def unpack(
        self, arrays: ArrayRecord, sent: ArrayRecord, mask: Tensor | None, summed: bool = False
    ) -> ArrayRecord:
        """Return the model that a reply means, in the order in which it was sent.

        `ValueError` names an array that is not of that model, or not of its size or dtype.

        Args:
            arrays: what came, packed or whole.
            sent: the global model as the server has it.
            mask: which weights `(P,)` the client may have trained.
            summed: it is the mean of several models.
        """
        check_names(arrays, sent)
        entries = {entry.name: entry for entry in self.layout.parameters}
        whole: dict[str, Array] = {}
        for name, before in sent.items():
            if name in entries:
                whole[name] = self._parameter(entries[name], arrays[name], before, mask)
            else:
                check_as_sent(name, arrays[name], before, summed)
                whole[name] = arrays[name]
        return ArrayRecord(whole)

    def _parameter(self, entry: Entry, array: Array, sent: Array, mask: Tensor | None) -> Array:
        """Return a parameter as a reply means it."""
        came = values_of(entry.name, array, [sent.dtype, *(["float16"] if self.half else [])])
        change = came.dtype == np.float16
        if came.shape == entry.shape and not change:
            return array
        free = None if mask is None else entry.view(mask).numpy()
        return Array(_placed(came, view_of(sent), free, entry.name, change))


def _placed(
    came: np.ndarray, before: np.ndarray, free: np.ndarray | None, name: str, change: bool
) -> np.ndarray:
    """Return a tensor whose trained entries came, as values or as their change."""
    if free is not None and came.shape == (np.count_nonzero(free),):
        values = before.copy()
        values[free] = values[free] + came if change else came
        return values
    if came.shape != before.shape:
        raise ValueError(f"{name!r} came as {came.shape}, and is {before.shape}")
    return np.asarray(before + came) if change else came
