"""Named random streams: the same words give the same numbers in every process, on every machine."""

import zlib

import numpy as np


def rng(seed: int, *stream: int | str) -> np.random.Generator:
    """Return the generator of one named stream, such as `rng(seed, "batches", round, client)`.

    Nothing in fedalign draws from a global generator: who runs first, in which process, on which
    engine, never changes what is drawn.
    """
    words = [zlib.crc32(word.encode()) if isinstance(word, str) else word for word in stream]
    # Their number goes in too: a SeedSequence cannot tell [a] from [a, 0].
    return np.random.default_rng(np.random.SeedSequence([len(words), seed, *words]))
