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


class _Nesting:
    """How deep the process is inside `preserved`, and inside `seeded`."""

    preserved = 0
    seeded = 0


class Drawn:
    """What the body of `seeded` drew from.

    Attributes:
        names: of the generators, once the body has ended.
    """

    names: tuple[str, ...] = ()


@contextmanager
def preserved() -> Iterator[None]:
    """Restore the global generators after the body; inside, `seeded` need not, which is slow."""
    with _lock:
        before = _states()
        _Nesting.preserved += 1
    try:
        yield
    finally:
        with _lock:
            _Nesting.preserved -= 1
            _restore(before)


@contextmanager
def seeded(seed: int, *stream: int | str) -> Iterator[None]:
    """Seed the global generators from a named stream, and restore them after the body.

    Meanwhile no other thread can do the same. Inside `preserved` only a body within a body of
    `seeded` is followed by what was before.
    """
    with _seeded(seed, *stream):
        yield


@contextmanager
def watched(seed: int, *stream: int | str) -> Iterator[Drawn]:
    """Do the same as `seeded`, and note which generators the body drew from."""
    drawn = Drawn()
    with _seeded(seed, *stream) as word:
        yield drawn
        drawn.names = tuple(_drawn_from(word))


@contextmanager
def _seeded(seed: int, *stream: int | str) -> Iterator[int]:
    with _lock:
        before = None if _Nesting.preserved and not _Nesting.seeded else _states()
        word = int(rng(seed, *stream).integers(1 << 32))
        _seed(word)
        _Nesting.seeded += 1
        try:
            yield word
        finally:
            _Nesting.seeded -= 1
            if before is not None:
                _restore(before)


def _seed(word: int) -> None:
    torch.default_generator.manual_seed(word >> 1)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        _gpu().manual_seed(word >> 1)
    np.random.seed(word)
    random.seed(word)


def _drawn_from(word: int) -> Iterator[str]:
    """Yield the generators that do not go on as `_seed` left them; draws from some of them."""
    fresh = torch.Generator().manual_seed(word >> 1)
    if not torch.equal(torch.default_generator.get_state(), fresh.get_state()):
        yield "PyTorch"
    if np.random.random_sample() != np.random.RandomState(word).random_sample():
        yield "NumPy"
    if random.random() != random.Random(word).random():
        yield "Python"
    on_gpu = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    if on_gpu and (_gpu().initial_seed(), _gpu().get_offset()) != (word >> 1, 0):
        yield "CUDA"


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
