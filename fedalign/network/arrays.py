"""Flower's arrays, which are the bytes of a NumPy file: made late, and read without trust."""

from __future__ import annotations

import re
from collections.abc import Mapping
from copy import copy
from functools import lru_cache
from io import BytesIO
from math import prod
from typing import Any, Literal, Self

import numpy as np
from flwr.app import Array, ArrayRecord

STYPE = "numpy.ndarray"
File = bytes | memoryview
"""The bytes of a NumPy file."""
_FIELDS = ("dtype", "shape", "stype", "data")
MAX_HEADER = 1024  # bytes: enough for an array of any shape
# Exactly what NumPy writes for plain numbers, so that nothing received is evaluated or unpickled.
HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(..)"
    rb"\{'descr': '([<>|][biufc]\d{1,2})', 'fortran_order': (True|False), "
    rb"'shape': \((|\d+,|\d+(?:, \d+)+)\), \} *\n",
    re.DOTALL,
)
Form = tuple[np.dtype, tuple[int, ...], Literal["C", "F"]]


class Storage:
    """The memory that all copies of a `LazyArray` share.

    Args:
        values: must not change afterwards.
        data: the bytes of a NumPy file of which `values` are a view, in memory of any kind.
    """

    __slots__ = ("__weakref__", "data", "values")

    def __init__(self, values: np.ndarray, data: File | None = None):
        self.values, self.data = values.view(), data
        self.values.flags.writeable = False

    @property
    def form(self) -> Form:
        """The dtype, the shape and the order of axes of the values."""
        return self.values.dtype, self.values.shape, _order(self.values)

    def to_bytes(self) -> bytes:
        """Return the bytes of the NumPy file, of which `values` are a view from then on."""
        if isinstance(self.data, bytes):
            return self.data
        before = self.values
        if self.data is None:
            buffer = BytesIO()
            np.save(buffer, before, allow_pickle=False)
            data = buffer.getvalue()
        else:
            data = bytes(self.data)
        place, order = len(data) - before.nbytes, _order(before)
        self.values = np.ndarray(before.shape, before.dtype, data, place, order=order)
        self.data = data
        return data

    @property
    def num_bytes(self) -> int:
        """The length of `to_bytes`."""
        if self.data is not None:
            return len(self.data)
        dtype, shape, order = self.form
        return _header_size(dtype, shape, order == "F") + prod(shape) * dtype.itemsize


class LazyArray(Array):
    """A Flower array that becomes bytes once they are asked for; most never leave the process.

    Args:
        values: must not change afterwards.
    """

    __qualname__ = Array.__qualname__  # under which Flower sends it

    def __init__(self, values: np.ndarray | Storage):
        storage = values if isinstance(values, Storage) else Storage(values)
        dtype, shape, _ = storage.form
        form = {"dtype": _dtype_name(dtype), "shape": shape, "stype": STYPE}
        self.__dict__.update(form, storage=storage)

    @property
    def data(self) -> bytes:  # type: ignore[override]
        """The bytes of a NumPy file."""
        return self.storage.to_bytes()

    @property
    def storage(self) -> Storage:
        """The memory with the values, which copies share."""
        found: Storage = self.__dict__["storage"]
        return found

    @property
    def values(self) -> np.ndarray:
        """The values, read-only."""
        return self.storage.values

    def numpy(self) -> np.ndarray:
        """Return a copy of the values."""
        return self.values.copy(order="K")

    def __eq__(self, other: object) -> bool:
        form = (self.dtype, self.shape, self.stype)
        return (
            isinstance(other, Array)
            and form == (other.dtype, other.shape, other.stype)
            and self.data == other.data
        )

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; what is changed becomes a plain `Array`, which may hold any bytes."""
        if name in _FIELDS:
            self.__dict__["data"] = self.__dict__.pop("storage").to_bytes()
            self.__class__ = Array  # type: ignore[assignment]
        Array.__setattr__(self, name, value)

    def __copy__(self) -> Self:
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__)
        return twin

    def __deepcopy__(self, _: object) -> Self:
        return copy(self)

    def __reduce__(self) -> tuple[type[Array], tuple[Any, ...]]:
        return Array, (self.dtype, self.shape, self.stype, self.data)


def view_of(array: Array) -> np.ndarray:
    """Return an array's values as a read-only view of its bytes; `ValueError`: see `values_in`."""
    if isinstance(array, LazyArray):
        return array.values
    return values_in(array.dtype, tuple(array.shape), array.stype, array.data)


def values_in(dtype: str, shape: tuple[int, ...], stype: str, data: File) -> np.ndarray:
    """Return the values in the bytes of a NumPy file, as a view of them.

    Nothing is allocated, whatever the header claims. `ValueError` if the bytes are not plain
    numbers, or differ from the shape and dtype that are stated.
    """
    if stype != STYPE:
        raise ValueError(f"is serialised as {stype[:30]!r}, not as {STYPE!r}")
    start = 10 + int.from_bytes(data[8:10], "little")
    known, own_shape, order = _form(bytes(data[: min(start, MAX_HEADER)]))
    if (_dtype_name(known), own_shape) != (dtype, shape):
        raise ValueError("is of another shape or dtype than it states")
    if len(data) - start != prod(shape) * known.itemsize:
        raise ValueError("has too few or too many bytes for its shape")
    return np.ndarray(shape, known, data, start, order=order)


def shared_by_copies(array: Array) -> object:
    """Return the object with the array's values, which all copies of the array have in common."""
    return array.storage if isinstance(array, LazyArray) else array.data


def record_of(arrays: Mapping[str, Array]) -> ArrayRecord:
    """Return a record of these arrays, where Flower's constructor makes new ones of their bytes."""
    record = ArrayRecord()
    for name, array in arrays.items():
        record[name] = array
    return record


def num_bytes(record: ArrayRecord) -> int:
    """Return the serialised size of a record's arrays, in bytes."""
    return sum(
        array.storage.num_bytes if isinstance(array, LazyArray) else len(array.data)
        for array in record.values()
    )


def like(record: ArrayRecord, sent: ArrayRecord) -> ArrayRecord:
    """Return `record` in the order and with the dtypes of `sent`, and with its integer buffers.

    Flower's FedAdam returns float64 for a float32 model, and averaging turns counters into floats.
    """
    restored = {}
    for name, before in sent.items():
        if not np.issubdtype(np.dtype(before.dtype), np.floating):
            restored[name] = before
        elif record[name].dtype == before.dtype:
            restored[name] = record[name]
        else:
            restored[name] = LazyArray(record[name].numpy().astype(before.dtype))
    return record_of(restored)


def _order(values: np.ndarray) -> Literal["C", "F"]:
    """Return the order of axes in which NumPy stores an array."""
    return "F" if values.flags.f_contiguous and not values.flags.c_contiguous else "C"


@lru_cache
def _dtype_name(dtype: np.dtype) -> str:
    return str(dtype)


@lru_cache(maxsize=4096)
def _header_size(dtype: np.dtype, shape: tuple[int, ...], by_columns: bool) -> int:
    """Return how many bytes a NumPy file has before the values."""
    buffer = BytesIO()
    form = {"descr": dtype.str, "fortran_order": by_columns, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, form)
    return len(buffer.getvalue())


@lru_cache(maxsize=4096)
def _form(header: bytes) -> Form:
    """Return the dtype, the shape and the order of axes in a header."""
    match = HEADER.fullmatch(header)
    if match is None or len(header) != 10 + int.from_bytes(match[1], "little"):
        raise ValueError("is not the bytes of a NumPy file of numbers")
    _, descr, fortran, shape = match.groups()
    try:
        dtype = np.dtype(descr.decode())
    except TypeError:
        raise ValueError("is of no dtype that NumPy knows") from None
    return dtype, tuple(map(int, re.findall(rb"\d+", shape))), "F" if fortran == b"True" else "C"
