"""Deal examples by class, each client with its own mix of classes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from partitions import Indices
from partitions.sizes import Floats

# Maps k clients and the mask of classes that are left `(C,)` to the wanted shares `(k, C)`.
Mix = Callable[[Indices, npt.NDArray[np.bool_]], Floats]


def members(labels: Indices) -> list[Indices]:
    """Return the indices of each class that occurs, ascending, lowest class first.

    >>> [indices.tolist() for indices in members(np.array([7, 0, 7, 2]))]
    [[1], [3], [0, 2]]
    """
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def owners(classes: list[Indices], counts: Indices) -> Indices:
    """Return the owner of every example if client k gets `counts[k, c]` examples of class c.

    >>> owners([np.array([0, 2, 4]), np.array([1, 3])], np.array([[1, 2], [2, 0]])).tolist()
    [0, 0, 1, 0, 1]

    Args:
        classes: the examples of each class, in the order in which they are dealt.
        counts: `(K, C)`; each column adds up to the size of its class.
    """
    owner = np.empty(sum(map(len, classes)), np.int64)
    clients = np.arange(len(counts))
    for column, of_class in zip(counts.T, classes, strict=True):
        owner[of_class] = np.repeat(clients, column)
    return owner


def by_mix(classes: list[Indices], sizes: Indices, mix: Mix, rng: np.random.Generator) -> Indices:
    """Return the owner of every example if each client draws from its own mix of classes.

    In each pass all clients request as many examples as they lack, by class. If a class has fewer
    left than are requested, a random part of the requests is granted; clients request the rest
    again in the next pass, of the classes that are left. So no client is served last, and every
    example has one owner.

    Args:
        classes: the examples of each class.
        sizes: number of examples for each client, `(K,)`; they add up to all examples.
        mix: the shares of classes that clients request.
        rng: the only source of randomness.
    """
    left = np.array([len(indices) for indices in classes])
    counts = np.zeros((len(sizes), len(classes)), np.int64)
    lacking = sizes.copy()
    while len(clients := np.flatnonzero(lacking)):
        requests = rng.multinomial(lacking[clients], mix(clients, left > 0))
        for column in np.flatnonzero(requests.sum(0) > left):
            requests[:, column] = _granted(requests[:, column], left[column], rng)
        counts[clients] += requests
        lacking[clients] -= requests.sum(1)
        left -= requests.sum(0)
    return owners([rng.permutation(indices) for indices in classes], counts)


def _granted(requests: Indices, left: int, rng: np.random.Generator) -> Indices:
    """Return how many of its requests each client is granted, `left` in total, at random."""
    client_of = np.repeat(np.arange(len(requests)), requests)
    chosen = rng.permutation(client_of)[:left]
    return np.bincount(chosen, minlength=len(requests))


def softmax(logs: Floats, left: npt.NDArray[np.bool_] | None = None) -> Floats:
    """Return rows in proportion to exp(logs), each summing to one; 0 where `left` is False."""
    if left is not None:
        logs = np.where(left, logs, -np.inf)
    weights = np.exp(logs - logs.max(axis=1, keepdims=True))
    rows: Floats = weights / weights.sum(axis=1, keepdims=True)
    return rows
