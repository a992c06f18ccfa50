"""Flower's arrays, which are the bytes of a NumPy file."""

from __future__ import annotations

from io import BytesIO

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.lib import format as npy

HEADER = 256  # more bytes than the header of any array with few dimensions


def view_of(array: Array) -> np.ndarray:
    """Return an array's values, read-only and without a copy where its bytes allow it."""
    if array.stype != "numpy.ndarray" or not array.data.startswith(b"\x93NUMPY\x01\x00"):
        return array.numpy()
    header = BytesIO(array.data[:HEADER])
    npy.read_magic(header)
    try:
        shape, fortran, dtype = npy.read_array_header_1_0(header)
    except ValueError:  # a header that is longer than any that we know
        return array.numpy()
    if fortran or dtype.hasobject:
        return array.numpy()
    return np.frombuffer(array.data, dtype, offset=header.tell()).reshape(shape)


def num_bytes(record: ArrayRecord) -> int:
    """Return the serialised size of a record's arrays, in bytes."""
    return sum(len(array.data) for array in record.values())
