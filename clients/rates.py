"""How the learning rate changes over the steps of a client's round."""

from __future__ import annotations

from typing import Literal

import numpy as np

WithinRound = Literal["constant", "linear", "cosine"]


def factors(form: WithinRound, warmup: float, steps: int) -> np.ndarray:
    """Return the factor on the round's learning rate in each of a client's steps, `(steps,)`.

    The first `round(warmup * steps)` steps rise linearly, the last of them to 1; the others fall,
    the first of them from 1.

    >>> factors("linear", 0.5, 6).tolist()
    [0.3333333333333333, 0.6666666666666666, 1.0, 1.0, 0.6666666666666667, 0.33333333333333337]
    """
    rising, number = round(warmup * steps), np.arange(steps)
    rise = np.minimum((number + 1) / max(rising, 1), 1)
    gone = np.maximum(number - rising, 0) / max(steps - rising, 1)
    if form == "linear":
        return rise * (1 - gone)
    return rise * ((1 + np.cos(np.pi * gone)) / 2 if form == "cosine" else 1.0)
