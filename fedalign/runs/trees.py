"""Store trees of plain values, arrays and Flower's records in safetensors files, without pickle.

Each array is stored as the bytes of Flower's `Array` (a NumPy file), so that its dtype, shape,
memory order and serialisation type survive. The tree around the arrays is JSON.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from fedalign.files import replace
from fedalign.network.arrays import LazyArray

PLAIN = frozenset({type(None), bool, int, float, str})
TABLES = (dict, ArrayRecord, MetricRecord, ConfigRecord, RecordDict)
ROWS = (list, tuple)
ARRAYS = (Array, LazyArray)
KINDS: dict[str, Callable[[Any], Any]] = {kind.__name__: kind for kind in (*TABLES, *ROWS)}
TREE = "tree"  # the name of the JSON among the numbered arrays


class DamagedError(ValueError):
    """A file whose content is not what was written into it."""


def is_known(value: object) -> bool:
    """Return whether `write` can store a value so that `read` returns an equal one."""
    kind = type(value)
    if isinstance(value, TABLES) and kind in TABLES:
        return all(is_known(key) and is_known(inner) for key, inner in value.items())
    if isinstance(value, ROWS) and kind in ROWS:
        return all(map(is_known, value))
    if isinstance(value, np.generic) or kind is np.ndarray:
        return not value.dtype.hasobject  # type: ignore[attr-defined]
    return kind in (*PLAIN, bytes, *ARRAYS)


@dataclass(frozen=True)
class Packed:
    """A tree as it is stored; later changes of the tree do not affect it.

    Attributes:
        tree: plain JSON, with the numbers of blobs in the places of arrays and bytes.
        blobs: the bytes of these, or arrays that become bytes when they are written.
    """

    tree: Any
    blobs: list[bytes | LazyArray]

    def plus(self, values: Mapping[str, Any]) -> Packed:
        """Return a packed dict with more keys."""
        blobs = [*self.blobs]
        return Packed({"dict": self.tree["dict"] + _pack(dict(values), blobs)["dict"]}, blobs)


def pack(tree: object) -> Packed:
    """Return a tree in the form in which `write` stores it; only NumPy arrays are copied."""
    blobs: list[bytes | LazyArray] = []
    return Packed(_pack(tree, blobs), blobs)


def write(path: Path, tree: object) -> None:
    """Write a tree, packed or not: after a crash, `path` holds either the old tree or the new one.

    Raises:
        FedalignError: the file cannot be written.
    """
    packed = tree if isinstance(tree, Packed) else pack(tree)
    text = json.dumps(packed.tree).encode()
    named = {TREE: text}
    for number, blob in enumerate(packed.blobs):
        named[str(number)] = blob.data if isinstance(blob, LazyArray) else blob
    tensors = {name: np.frombuffer(blob, np.uint8) for name, blob in named.items()}
    checksum = {"crc32": str(_crc32(named.__getitem__, len(packed.blobs)))}
    replace(path, lambda new: save_file(tensors, new, checksum))


def read(path: Path) -> Any:
    """Return the tree in a file; `DamagedError` if the file is not as it was written."""
    try:
        with safe_open(path, framework="numpy") as file:

            def blob(name: str) -> bytes:
                return bytes(file.get_tensor(name).tobytes())

            checksum = (file.metadata() or {}).get("crc32")
            if checksum != str(_crc32(blob, len(file.keys()) - 1)):
                raise DamagedError("its checksum is wrong")
            return _unpack(json.loads(blob(TREE)), blob)
    except (SafetensorError, OSError, LookupError, TypeError, ValueError) as error:
        raise DamagedError(f"cannot be read: {error}") from error


def _crc32(blob: Callable[[str], bytes], count: int) -> int:
    crc = zlib.crc32(blob(TREE))
    for number in range(count):
        crc = zlib.crc32(blob(str(number)), crc)
    return crc


def _pack(value: Any, blobs: list[bytes | LazyArray]) -> Any:
    """Return a value as JSON: plain, or under the name of its type; append its bytes to `blobs`."""
    kind = type(value)
    if kind in PLAIN:
        return value
    if kind in ROWS and PLAIN.issuperset(map(type, value)):
        return {kind.__name__: list(value)}
    if kind in TABLES:
        pairs = [[_pack(key, blobs), _pack(inner, blobs)] for key, inner in value.items()]
        return {kind.__name__: pairs}
    if kind in ROWS:
        return {kind.__name__: [_pack(inner, blobs) for inner in value]}
    if kind is np.ndarray:
        return {"ndarray": _pack(LazyArray(value.copy(order="K")), blobs)}
    if isinstance(value, np.generic):
        return {"scalar": _pack(LazyArray(np.asarray(value)), blobs)}
    blobs.append(value.data if kind is Array else value)
    name = str(len(blobs) - 1)
    if kind in ARRAYS:
        return {"Array": [value.dtype, list(value.shape), value.stype, name]}
    return {"bytes": name}


def _unpack(packed: Any, blob: Callable[[str], bytes]) -> Any:
    """Return the value that `_pack` was given."""
    if not isinstance(packed, dict):
        return packed
    ((kind, inside),) = packed.items()
    if kind == "bytes":
        return blob(inside)
    if kind == "Array":
        dtype, shape, stype, name = inside
        return Array(dtype, tuple(shape), stype, blob(name))
    if kind == "ndarray":
        return _unpack(inside, blob).numpy()
    if kind == "scalar":
        return _unpack(inside, blob).numpy()[()]
    if kind in ("list", "tuple"):
        return KINDS[kind](_unpack(inner, blob) for inner in inside)
    return KINDS[kind]({_unpack(key, blob): _unpack(inner, blob) for key, inner in inside})
