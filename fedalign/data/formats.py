"""File formats of image data: idx, and NumPy archives with the keys of Keras."""

import gzip
import hashlib
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedalign.data import Part
from fedalign.errors import InputError

Array = npt.NDArray[Any]
Arrays = tuple[Array, Array]

_DAMAGED = (OSError, EOFError, ValueError, KeyError, TypeError, zlib.error, zipfile.BadZipFile)


def read_idx(path: Path) -> Array:
    """Return the array of unsigned bytes in an idx file, compressed with gzip or not.

    Raises:
        InputError: The file is damaged or does not hold bytes.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        dimensions = _dimensions(raw)
        start = 4 + 4 * len(dimensions)
        return np.frombuffer(raw, np.uint8, offset=start).reshape(dimensions)
    except (OSError, EOFError, ValueError, struct.error, zlib.error) as error:
        raise InputError(f"{path}: not a readable idx file of bytes: {error}") from error


def idx_bytes(array: Array) -> bytes:
    """Return the contents of an uncompressed idx file with this array."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.tobytes()


def idx_md5(array: Array) -> str:
    """Return the MD5 of the array's uncompressed idx file, whatever file the array came from."""
    return hashlib.md5(idx_bytes(array), usedforsecurity=False).hexdigest()


def read_npz(path: Path, part: Part) -> Arrays:
    """Return images as stored, `(N, H, W)` or `(N, H, W, C)`, and labels `(N,)` of one part."""
    images, labels = read_arrays(path, (f"x_{part}", f"y_{part}"))
    return images, labels.reshape(-1)


def read_arrays(path: Path, names: Sequence[str]) -> list[Array]:
    """Return the named arrays of an archive; pickled objects are never loaded.

    Raises:
        InputError: The archive is damaged, or lacks one of the arrays.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            return [archive[name] for name in names]
    except _DAMAGED as error:
        wanted = ", ".join(names)
        raise InputError(f"{path}: not a readable .npz with {wanted}: {error}") from error


def names_in(path: Path) -> list[str]:
    """Return the names of an archive's arrays; raises `InputError` if it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return list(archive.files)
    except _DAMAGED as error:
        raise InputError(f"{path}: not a readable .npz: {error}") from error


def _dimensions(raw: bytes) -> tuple[int, ...]:
    zero, kind, count = struct.unpack_from(">HBB", raw)
    if (zero, kind) != (0, 8):
        raise ValueError(f"it starts with {raw[:4].hex()}, not with 000008")
    return struct.unpack_from(f">{count}I", raw, 4)
