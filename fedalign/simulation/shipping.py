"""How Flower's arrays travel between this process and Ray's workers."""

from __future__ import annotations

import numpy as np
import ray
from flwr.app import Array

from fedalign.network.arrays import LazyArray


def ship_arrays_out_of_band() -> None:
    """Let this process send Flower's Arrays through shared memory instead of inside a pickle."""
    for kind in (Array, LazyArray):
        ray.util.register_serializer(kind, serializer=_pack, deserializer=_unpack)


def _pack(array: Array) -> tuple[str, tuple[int, ...], str, np.ndarray]:
    return array.dtype, tuple(array.shape), array.stype, np.frombuffer(array.data, np.uint8)


def _unpack(packed: tuple[str, tuple[int, ...], str, np.ndarray]) -> Array:
    dtype, shape, stype, data = packed
    return Array(dtype, shape, stype, data.tobytes())
