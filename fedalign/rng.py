"""Named random streams: the same name gives the same numbers in every process, on every machine."""

import zlib

import numpy as np


def rng(seed: int, *stream: int | str) -> np.random.Generator:
    """Return the generator of a named stream, such as `rng(seed, "batches", round, client)`.

    fedalign never draws from a global generator, so the numbers do not depend on the order of the
    calls, the process or the engine.
    """
    words = [zlib.crc32(word.encode()) if isinstance(word, str) else word for word in stream]
    # The number of words is part of the seed, since a SeedSequence cannot tell [a] from [a, 0].
    return np.random.default_rng(np.random.SeedSequence([len(words), seed, *words]))
