"""Examples by their class, and clients with a mix of classes of their own."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from partitions import Indices
from partitions.sizes import Floats

# The shares of the classes `(k, C)` that some of the clients want, of the classes that are left.
Mix = Callable[[Indices, npt.NDArray[np.bool_]], Floats]


def members(labels: Indices) -> list[Indices]:
    """Return the indices of each class that occurs, ascending, lowest class first."""
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def owners(classes: list[Indices], counts: Indices) -> Indices:
    """Return the owner of every example, where client k gets `counts[k, c]` of class c, in order.

    Args:
        classes: the examples of each class, in the order in which they are dealt.
        counts: `(K, C)`; they add up to the sizes of the classes.
    """
    owner = np.empty(sum(map(len, classes)), np.int64)
    clients = np.arange(len(counts))
    for column, of_class in zip(counts.T, classes, strict=True):
        owner[of_class] = np.repeat(clients, column)
    return owner


def by_mix(classes: list[Indices], sizes: Indices, mix: Mix, rng: np.random.Generator) -> Indices:
    """Return the owner of every example, where each client asks for a mix of classes of its own.

    All clients ask at once, for as many examples as they lack. A class that is asked for more than
    it has left goes to a random part of those who asked; what they did not get they ask for again,
    of the classes that are left. So no client comes last, as one must where they are served one
    after the other, and every example has one owner.

    Args:
        classes: the examples of each class.
        sizes: how many each client gets, `(K,)`; they add up to all.
        mix: what the clients ask for.
        rng: the only source of randomness.
    """
    left = np.array([len(own) for own in classes])
    counts = np.zeros((len(sizes), len(classes)), np.int64)
    lacks = sizes.copy()
    while len(asking := np.flatnonzero(lacks)):
        asked = rng.multinomial(lacks[asking], mix(asking, left > 0))
        for column in np.flatnonzero(asked.sum(0) > left):
            asked[:, column] = _some(asked[:, column], left[column], rng)
        counts[asking] += asked
        lacks[asking] -= asked.sum(1)
        left -= asked.sum(0)
    return owners([rng.permutation(own) for own in classes], counts)


def _some(asked: Indices, granted: int, rng: np.random.Generator) -> Indices:
    """Return who gets how many, if only so many of all that was asked for can be granted."""
    asking = np.repeat(np.arange(len(asked)), asked)
    chosen = rng.permutation(asking)[:granted]
    return np.bincount(chosen, minlength=len(asked))


def softmax(logs: Floats, left: npt.NDArray[np.bool_] | None = None) -> Floats:
    """Return rows in proportion to exp(logs), 0 where nothing is left."""
    if left is not None:
        logs = np.where(left, logs, -np.inf)
    weights = np.exp(logs - logs.max(axis=1, keepdims=True))
    rows: Floats = weights / weights.sum(axis=1, keepdims=True)
    return rows
