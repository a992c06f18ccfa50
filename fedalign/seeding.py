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
def seeded(seed: int, *stream: int | str) -> Iterator[None]:
    """Seed the global generators from a named stream, and restore them after the body.

    Meanwhile no other thread can do the same.
    """
    with _lock:
        before = _states()
        _seed(int(rng(seed, *stream).integers(1 << 32)))
        try:
            yield
        finally:
            _restore(before)


@contextmanager
def watched(seed: int, *stream: int | str) -> Iterator[Drawn]:
    """Do the same as `seeded`, and note which generators the body drew from."""
    drawn = Drawn()
    with seeded(seed, *stream):
        fresh = _states()
        yield drawn
        after = _states()
        drawn.names = tuple(name for name in fresh if not _alike(fresh[name], after[name]))


def _seed(word: int) -> None:
    torch.default_generator.manual_seed(word >> 1)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        _gpu().manual_seed(word >> 1)
    np.random.seed(word)
    random.seed(word)


def _gpu() -> Any:
    return torch.cuda.default_generators[torch.cuda.current_device()]


def _states() -> dict[str, Any]:
    states = {
        "PyTorch": torch.default_generator.get_state(),
        "NumPy": np.random.get_state(legacy=False),
        "Python": random.getstate(),
    }
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        states["CUDA"] = _gpu().initial_seed(), _gpu().get_offset()
    return states


def _restore(states: dict[str, Any]) -> None:
    torch.default_generator.set_state(states["PyTorch"])
    np.random.set_state(states["NumPy"])
    random.setstate(states["Python"])
    if "CUDA" in states:
        seed, offset = states["CUDA"]
        _gpu().manual_seed(seed)
        _gpu().set_offset(offset)


def _alike(one: Any, other: Any) -> bool:
    """Return whether two states of a generator are the same."""
    if isinstance(one, dict):
        return all(_alike(value, other[key]) for key, value in one.items())
    if isinstance(one, torch.Tensor | np.ndarray):
        return bool((one == other).all())
    return bool(one == other)
