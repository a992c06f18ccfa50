"""Fresh examples in each round: a client walks through permutations of its examples."""

from __future__ import annotations

import numpy as np

from fedalign.rng import rng


def fresh(
    rows: np.ndarray, count: int | None, seed: int, client: int, server_round: int
) -> np.ndarray:
    """Return those of a client's rows that it trains on in a round, ascending.

    Rounds take `count` each, one after the other, of a random order of all rows; where it ends,
    of the next random order, but none twice in a round. So a round depends on none before it.

    Args:
        rows: of the client, `(n,)`.
        count: rows in a round; None, or n and more: all.
        seed: the run's.
        client: its number.
        server_round: from 1.
    """
    if count is None or count >= len(rows):
        return rows
    number, offset = divmod((server_round - 1) * count, len(rows))
    order = rng(seed, "round_examples", client, number).permutation(len(rows))[offset:]
    if len(order) < count:
        after = rng(seed, "round_examples", client, number + 1).permutation(len(rows))
        order = np.concatenate([order, after[~np.isin(after, order)]])
    chosen: np.ndarray = rows[np.sort(order[:count])]
    return chosen
