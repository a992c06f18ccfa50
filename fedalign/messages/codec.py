"""How models travel: only their trained entries, and in half precision on request."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from flwr.app import Array, ArrayRecord
from torch import Tensor

from fedalign.masks.plan import MaskPlan
from fedalign.messages.private import Private, sent_mask
from fedalign.messages.records import EXTRA
from fedalign.messages.validation import check_as_sent, check_left_out, check_names, values_of
from fedalign.network.arrays import LazyArray, record_of, view_of
from fedalign.network.device import fetch
from fedalign.network.layout import Entry, Layout

FLOATS = ("float16", "float32", "float64")


@dataclass(frozen=True)
class Codec:
    """Packs models into records and unpacks them; a reply holds only the weights that trained.

    With `half`, the server sends float16 but keeps its float32 weights. Clients return the change
    as float16, and the server adds it to those weights. So rounding does not swallow small steps.

    Attributes:
        layout: of the model.
        half: send parameters, and extras in replies, as float16; buffers stay float32.
        private: tensors that no reply holds; None: there are none.
    """

    layout: Layout
    half: bool = False
    private: Private | None = None

    def mask(self, plan: MaskPlan) -> Tensor | None:
        """Return the parameters `(P,)` in the reply of a client with this plan; None: all."""
        return sent_mask(plan, self.layout, self.private)

    def shrink(self, arrays: ArrayRecord) -> ArrayRecord:
        """Return the global model as it is sent to clients."""
        if not self.half:
            return arrays
        names = {entry.name for entry in self.layout.parameters}
        return record_of(
            {
                name: LazyArray(array.numpy().astype(np.float16)) if name in names else array
                for name, array in arrays.items()
            }
        )

    def pack(
        self, vector: Tensor, start: Tensor, mask: Tensor | None, counters: Mapping[str, Array]
    ) -> ArrayRecord:
        """Return the record of a model `(F,)` that was trained from `start` `(F,)`.

        With a mask `(P,)` each parameter tensor becomes the vector of its trained entries. Of a
        private tensor there are none.
        """
        if mask is None and not self.half and not self.private:
            return self.layout.to_record(vector, dict(counters))
        vector = fetch(vector.detach())
        start = start.cpu() if self.half else start
        packed: dict[str, Array] = {}
        for entry in self.layout.parameters:
            values = entry.view(vector)
            if self.half:
                values = (values - entry.view(start)).half()
            values = values if mask is None else values[entry.view(mask)]
            packed[entry.name] = LazyArray(values.contiguous().numpy())
        for entry in self.layout.buffers:
            values = entry.view(vector)
            values = values.new_empty(0) if self._keeps(entry.name) else values
            packed[entry.name] = LazyArray(values.numpy())
        return record_of({**packed, **counters})

    def pack_extra(self, vector: Tensor, mask: Tensor | None) -> Array:
        """Return the trained entries of a vector `(P,)` that travels beside the model."""
        trained = self.layout.compact(vector) if mask is None else vector[mask.to(vector.device)]
        values = trained.cpu().numpy()
        return LazyArray(values.astype(np.float16 if self.half else values.dtype))

    def unpack_extra(self, array: Array, mask: Tensor | None) -> Array:
        """Return what `pack_extra` packed, float32 without padding, 0 where a weight was fixed.

        Raises:
            ValueError: the array has another size or dtype.
        """
        with np.errstate(over="ignore"):
            came = values_of(EXTRA, array, FLOATS).astype(np.float32, copy=False)
        zeros = np.zeros(self.layout.num_parameters, np.float32)
        trained = None if mask is None else self.layout.compact(mask).numpy()
        return LazyArray(_fill_in(came, zeros, trained, EXTRA, False))

    def unpack(
        self, arrays: ArrayRecord, sent: ArrayRecord, mask: Tensor | None, summed: bool = False
    ) -> ArrayRecord:
        """Return the model in a reply, whole and in the order of `sent`.

        Args:
            arrays: the reply's, packed or whole.
            sent: the global model as the server has it.
            mask: the weights `(P,)` that the client may have trained; None: all of them.
            summed: the reply is the mean of several models.

        Raises:
            ValueError: an array has another name, size or dtype than the model's.
        """
        check_names(arrays, sent)
        entries = {entry.name: entry for entry in self.layout.parameters}
        whole: dict[str, Array] = {}
        for name, before in sent.items():
            if self._keeps(name):
                check_left_out(name, arrays[name], before)
                whole[name] = before
            elif name in entries:
                whole[name] = self._parameter(entries[name], arrays[name], before, mask)
            else:
                check_as_sent(name, arrays[name], before, summed)
                whole[name] = arrays[name]
        return record_of(whole)

    def _keeps(self, name: str) -> bool:
        """Return whether clients keep the tensor of this name to themselves."""
        return self.private is not None and name in self.private.names

    def _parameter(self, entry: Entry, array: Array, sent: Array, mask: Tensor | None) -> Array:
        """Return a whole parameter from an array of a reply."""
        came = values_of(entry.name, array, [sent.dtype, *(["float16"] if self.half else [])])
        change = came.dtype == np.float16
        if came.shape == entry.shape and not change:
            return array
        trained = None if mask is None else entry.view(mask).numpy()
        return LazyArray(_fill_in(came, view_of(sent), trained, entry.name, change))


def _fill_in(
    came: np.ndarray, before: np.ndarray, trained: np.ndarray | None, name: str, change: bool
) -> np.ndarray:
    """Return the whole tensor, of which the trained entries came, as values or as their change."""
    if trained is not None and came.shape == (np.count_nonzero(trained),):
        values = before.copy()
        values[trained] = values[trained] + came if change else came
        return values
    if came.shape != before.shape:
        raise ValueError(f"{name!r} came as {came.shape}, and is {before.shape}")
    return np.asarray(before + came) if change else came
