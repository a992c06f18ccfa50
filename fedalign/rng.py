"""Named random streams: the same name gives the same numbers in every process, on every machine."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.random.bit_generator import ISeedSequence

LIMIT = 1 << 32  # of the words that are hashed
# The hash of NumPy's SeedSequence.
POOL, SHIFT = 4, np.uint32(16)
FIRST, SECOND = (0x43B0D7E5, 0x931E8875), (0x8B51F9DD, 0x58F38DED)
LEFT, RIGHT = np.uint32(0xCA01F9DD), np.uint32(0x4973F715)


def rng(seed: int, *stream: int | str) -> np.random.Generator:
    """Return the generator of a named stream, such as `rng(seed, "batches", round, client)`.

    fedalign never draws from a global generator, so the numbers do not depend on the order of the
    calls, the process or the engine.
    """
    return np.random.default_rng(np.random.SeedSequence(_words(seed, stream)))


def rngs(seed: int, *stream: int | str, last: Sequence[int]) -> list[np.random.Generator]:
    """Return `rng(seed, *stream, number)` for each number in `last`, in a tenth of the time."""
    words = _words(seed, (*stream, 0))[:-1]
    if max([*words, *last], default=0) >= LIMIT:
        return [rng(seed, *stream, number) for number in last]
    seeds: list[Any] = [_Known(own) for own in _seeds(words, last)]
    return [np.random.Generator(np.random.PCG64(seed)) for seed in seeds]


def _words(seed: int, stream: Sequence[int | str]) -> list[int]:
    words = [zlib.crc32(word.encode()) if isinstance(word, str) else word for word in stream]
    # The number of words is part of the seed, since a SeedSequence cannot tell [a] from [a, 0].
    return [len(words), seed, *words]


class _Known(ISeedSequence):
    """A seed that has been computed."""

    def __init__(self, words: np.ndarray):
        self._words = words

    def generate_state(self, n_words: int, dtype: Any = np.uint64) -> np.ndarray:  # noqa: ARG002
        """Return the four words that a PCG64 asks for."""
        return self._words


def _seeds(words: Sequence[int], last: Sequence[int]) -> np.ndarray:
    """Return what `SeedSequence([*words, number])` makes for each number in `last`, `(n, 4)`."""
    numbers = np.asarray(last, np.uint32)
    entropy = [np.full_like(numbers, word) for word in words] + [numbers]
    entropy += [np.zeros_like(numbers)] * (POOL - len(entropy))
    hashed = _Hash(*FIRST)
    pool = [hashed(own) for own in entropy[:POOL]]
    for source in range(POOL):
        for to in range(POOL):
            if source != to:
                pool[to] = _mix(pool[to], hashed(pool[source]))
    for own in entropy[POOL:]:
        pool = [_mix(place, hashed(own)) for place in pool]
    hashed = _Hash(*SECOND)
    halves = [hashed(pool[number % POOL]) for number in range(2 * POOL)]
    return np.stack(halves, 1).view(np.uint64)


class _Hash:
    """A hash whose constant changes with each call."""

    def __init__(self, constant: int, factor: int):
        self._constant, self._factor = constant, factor

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """Return the hash of uint32 numbers."""
        values = values ^ np.uint32(self._constant)
        self._constant = self._constant * self._factor % LIMIT
        values = values * np.uint32(self._constant)
        return values ^ (values >> SHIFT)


def _mix(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    mixed: np.ndarray = one * LEFT - other * RIGHT
    mixed ^= mixed >> SHIFT
    return mixed
