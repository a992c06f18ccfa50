"""File formats of image data: idx, and NumPy archives with the keys of Keras."""

import gzip
import hashlib
import struct
import zipfile
import zlib
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedalign.data import Part
from fedalign.errors import InputError

Array = npt.NDArray[Any]
Arrays = tuple[Array, Array]

_DAMAGED = (
    *(OSError, EOFError, ValueError, KeyError, TypeError, SyntaxError, NotImplementedError),
    *(RuntimeError, MemoryError, OverflowError, struct.error, zlib.error, zipfile.BadZipFile),
)
_HEADERS: dict[tuple[int, int], Any] = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
MAX_RATIO = 100  # how much larger than its file an array may be
MIN_LIMIT = 1 << 26  # bytes to which even the smallest file may unpack


def read_idx(path: Path) -> Array:
    """Return the array of unsigned bytes in an idx file, compressed with gzip or not.

    Raises:
        InputError: The file is damaged or does not hold bytes.
    """
    try:
        raw = _unpacked(path) if path.suffix == ".gz" else path.read_bytes()
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
        with zipfile.ZipFile(path) as archive:
            _check_size(path, sum(archive.getinfo(f"{name}.npy").file_size for name in names))
            for name in names:
                _check_member(archive, f"{name}.npy")
        with np.load(path, allow_pickle=False) as arrays:
            return [arrays[name] for name in names]
    except _DAMAGED as error:
        wanted = ", ".join(names)
        raise InputError(f"{path}: not a readable .npz with {wanted}: {error}") from error


def names_in(path: Path) -> list[str]:
    """Return the names of an archive's arrays; raises `InputError` if it is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            return [name.removesuffix(".npy") for name in archive.namelist()]
    except _DAMAGED as error:
        raise InputError(f"{path}: not a readable .npz: {error}") from error


def _check_member(archive: zipfile.ZipFile, name: str) -> None:
    """Raise for a member that is no array, or whose header claims more, or less, than it holds."""
    with archive.open(name) as file:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"{name} is of version {version} of NumPy's format")
        shape, _, dtype = _HEADERS[version](file)
        size = prod(shape) * dtype.itemsize
        if dtype.hasobject or file.tell() + size != archive.getinfo(name).file_size:
            raise ValueError(f"{name} is not the {size} bytes of {dtype} {shape}")


def _unpacked(path: Path) -> bytes:
    """Return what a gzip file holds, up to the limit of `_check_size`."""
    with gzip.open(path) as file:
        raw = file.read(_limit(path) + 1)
    _check_size(path, len(raw))
    return raw


def _check_size(path: Path, size: int) -> None:
    """Raise for a file that unpacks to more than images do."""
    if size > (limit := _limit(path)):
        raise ValueError(f"it unpacks to more than {limit >> 20} MiB, {MAX_RATIO} times its size")


def _limit(path: Path) -> int:
    return max(MIN_LIMIT, MAX_RATIO * path.stat().st_size)


def _dimensions(raw: bytes) -> tuple[int, ...]:
    zero, kind, count = struct.unpack_from(">HBB", raw)
    if (zero, kind) != (0, 8):
        raise ValueError(f"it starts with {raw[:4].hex()}, not with 000008")
    return struct.unpack_from(f">{count}I", raw, 4)
