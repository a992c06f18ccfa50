"""Read Flower's arrays, which are the bytes of a NumPy file, without trusting them."""

from __future__ import annotations

import re
from functools import lru_cache
from math import prod
from typing import Literal

import numpy as np
from flwr.app import Array, ArrayRecord

MAX_HEADER = 1024  # bytes: enough for an array of any shape
# Exactly what NumPy writes for plain numbers, so that nothing received is evaluated or unpickled.
HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(..)"
    rb"\{'descr': '([<>|][biufc]\d{1,2})', 'fortran_order': (True|False), "
    rb"'shape': \((|\d+,|\d+(?:, \d+)+)\), \} *\n",
    re.DOTALL,
)
Form = tuple[np.dtype, tuple[int, ...], Literal["C", "F"]]


def view_of(array: Array) -> np.ndarray:
    """Return an array's values as a read-only view of its bytes.

    Nothing is allocated, whatever the header claims. `ValueError` if the bytes are not plain
    numbers, or differ from the shape and dtype that the array states.
    """
    if array.stype != "numpy.ndarray":
        raise ValueError(f"is serialised as {array.stype[:30]!r}, not as 'numpy.ndarray'")
    header = HEADER.match(array.data, 0, MAX_HEADER)
    if header is None:
        raise ValueError("is not the bytes of a NumPy file of numbers")
    dtype, shape, order = _form(header.group())
    if (str(dtype), shape) != (array.dtype, tuple(array.shape)):
        raise ValueError("is of another shape or dtype than it states")
    if len(array.data) - header.end() != prod(shape) * dtype.itemsize:
        raise ValueError("has too few or too many bytes for its shape")
    return np.ndarray(shape, dtype, array.data, header.end(), order=order)


def num_bytes(record: ArrayRecord) -> int:
    """Return the serialised size of a record's arrays, in bytes."""
    return sum(len(array.data) for array in record.values())


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
            restored[name] = Array(record[name].numpy().astype(before.dtype))
    return ArrayRecord(restored)


@lru_cache(maxsize=4096)
def _form(header: bytes) -> Form:
    """Return the dtype, the shape and the order of axes in a header."""
    match = HEADER.fullmatch(header)
    assert match is not None
    length, descr, fortran, shape = match.groups()
    if int.from_bytes(length, "little") != len(header) - 10:
        raise ValueError("is not the bytes of a NumPy file of numbers")
    try:
        dtype = np.dtype(descr.decode())
    except TypeError:
        raise ValueError("is of no dtype that NumPy knows") from None
    return dtype, tuple(map(int, re.findall(rb"\d+", shape))), "F" if fortran == b"True" else "C"
