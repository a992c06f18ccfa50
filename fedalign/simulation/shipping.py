"""How Flower's messages travel between this process and Ray's workers.

What they hold is pickled without Flower's objects around it. The bytes of arrays lie beside the
pickle in shared memory, where large arrays are read without a copy.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from threading import RLock
from typing import Any, ClassVar
from weakref import WeakSet

import numpy as np
import ray
from flwr.app import Array, ArrayRecord, Context, Message, Metadata

from fedalign.messages.copies import KINDS, items_of, made, records_in, unchecked
from fedalign.messages.groups import GroupReplies
from fedalign.network.arrays import File, LazyArray, Storage, values_in, view_of
from fedalign.simulation.allocator import keep_freed_memory

INLINE = 1 << 10  # bytes; smaller arrays travel within the pickle
SMALL = 1 << 16  # bytes; smaller arrays are copied out of shared memory
MAX_MAPPED = 1 << 30  # bytes of shared memory that the arrays of a process may occupy
Packed = tuple[str, tuple[int, ...], str, bytes | np.ndarray]
"""The dtype, shape and stype of an array, and its bytes."""
_counting = RLock()  # Python may free an array at any time, in any thread


class MappedStorage(Storage):
    """An array's memory that is part of Ray's shared memory, which is occupied until then."""

    __slots__ = ("occupied",)
    living: ClassVar[WeakSet[MappedStorage]] = WeakSet()
    total = 0  # bytes that are occupied

    def __init__(self, values: np.ndarray, data: File | None = None):
        super().__init__(values, data)
        self.occupied = values.nbytes
        with _counting:
            MappedStorage.total += self.occupied
        self.living.add(self)

    def to_bytes(self) -> bytes:
        """Return the bytes of the NumPy file, which lie in memory of this process."""
        data = super().to_bytes()
        self._free()
        return data

    def move(self) -> None:
        """Copy the values into memory of this process."""
        if self.data is None:
            self.values = _own(self.values)
            self._free()
        else:
            self.to_bytes()

    def _free(self) -> None:
        with _counting:
            MappedStorage.total -= self.occupied
            self.occupied = 0

    __del__ = _free


def ship_arrays_out_of_band() -> None:
    """Let this process send Flower's Arrays through shared memory instead of inside a pickle."""
    keep_freed_memory()
    for records in KINDS:
        _register(records, items_of, partial(unchecked, records))
    for kind in (Message, Metadata, Context):
        _register(kind, vars, partial(made, kind))
    _register(GroupReplies, vars, _unpack_replies)
    for arrays in (Array, LazyArray):
        _register(arrays, _pack, _unpack)


def leave_shared_memory() -> None:
    """Copy all arrays out of shared memory, before others may use it again."""
    for storage in list(MappedStorage.living):
        storage.move()


def _register(kind: type, pack: Callable[[Any], Any], unpack: Callable[[Any], Any]) -> None:
    ray.util.register_serializer(kind, serializer=pack, deserializer=unpack)


def _pack(array: Array) -> Packed | np.ndarray:
    data = array.storage.data if isinstance(array, LazyArray) else array.data
    if data is None:
        return view_of(array)
    packed = bytes(data) if len(data) < INLINE else np.frombuffer(data, np.uint8)
    return array.dtype, array.shape, array.stype, packed


def _unpack(packed: Packed | np.ndarray) -> Array:
    """Return an array whose values stay where they are, if they are many."""
    if isinstance(packed, np.ndarray):
        stays = _stays(packed.nbytes)
        return LazyArray(MappedStorage(packed) if stays else Storage(_own(packed)))
    dtype, shape, stype, held = packed
    data = held if isinstance(held, bytes) else held.data
    if _stays(len(data)):
        with suppress(ValueError):  # any app may send other bytes than those of plain numbers
            return LazyArray(MappedStorage(values_in(dtype, shape, stype, data), data))
    return made(Array, {"dtype": dtype, "shape": shape, "stype": stype, "data": bytes(data)})


def _unpack_replies(fields: dict[str, Any]) -> GroupReplies:
    """Return replies with states in memory of this process, which may store them for long."""
    answers = made(GroupReplies, fields)
    for state in answers.states.values():
        for record in records_in(state, ArrayRecord).values():
            for array in record.values():
                if isinstance(array, LazyArray) and isinstance(array.storage, MappedStorage):
                    array.storage.move()
    return answers


def _stays(size: int) -> bool:
    """Return whether an array of so many bytes is to stay in shared memory."""
    if size >= SMALL and MappedStorage.total + size > MAX_MAPPED:
        gc.collect(1)  # of messages that are held by a cycle, see `records_in`
    return size >= SMALL and MappedStorage.total + size <= MAX_MAPPED


def _own(values: np.ndarray) -> np.ndarray:
    return values.copy(order="K")
