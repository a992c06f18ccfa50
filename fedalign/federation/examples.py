"""Which examples each client has: to train on, and to test on."""

from __future__ import annotations

import numpy as np


def hold_out(
    rows: np.ndarray, share: float, stream: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return which of a client's `rows` it trains on and which it keeps back, both in their order.

    Kept back are `round(share * n)` (half to even), drawn at random, but never all n: so a client
    with one example trains on it and has nothing to test on.
    """
    count = min(round(share * len(rows)), len(rows) - 1)
    kept = np.zeros(len(rows), bool)
    if count > 0:
        kept[stream.choice(len(rows), count, replace=False)] = True
    return rows[~kept], rows[kept]
