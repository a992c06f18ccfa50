"""Python's, NumPy's and PyTorch's global generators, for code that knows nothing of named streams.

fedalign itself never draws from them. A user's part may, and then finds them seeded.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any

import numpy as np
import torch

from fedalign.rng import rng

_lock = RLock()  # a process has one of each


class Drawn:
    """What the body of `seeded` drew from.

    Attributes:
        names: of the generators, once the body has ended.
    """

    names: tuple[str, ...] = ()


@contextmanager
def seeded(seed: int, *stream: int | str) -> Iterator[Drawn]:
    """Seed the global generators from a named stream, and restore them after the body.

    Meanwhile no other thread can do the same.
    """
    word, drawn = int(rng(seed, *stream).integers(1 << 32)), Drawn()
    with _lock:
        before = _states()
        torch.default_generator.manual_seed(word >> 1)
        if _uses_cuda():
            torch.cuda.manual_seed(word >> 1)
        np.random.seed(word)
        random.seed(word)
        fresh = _states()
        try:
            yield drawn
        finally:
            after = _states()
            drawn.names = tuple(name for name in fresh if not _alike(fresh[name], after[name]))
            _restore(before)


def _states() -> dict[str, Any]:
    states = {
        "PyTorch": torch.get_rng_state(),
        "NumPy": np.random.get_state(legacy=False),
        "Python": random.getstate(),
    }
    return states | ({"CUDA": torch.cuda.get_rng_state()} if _uses_cuda() else {})


def _uses_cuda() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def _restore(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["PyTorch"])
    np.random.set_state(states["NumPy"])
    random.setstate(states["Python"])
    if "CUDA" in states:
        torch.cuda.set_rng_state(states["CUDA"])


def _alike(one: Any, other: Any) -> bool:
    """Return whether two states of a generator are the same."""
    if isinstance(one, dict):
        return all(_alike(value, other[key]) for key, value in one.items())
    if isinstance(one, torch.Tensor | np.ndarray):
        return bool((one == other).all())
    return bool(one == other)
