"""Sizes of clients: equal or in proportion to weights, none below a minimum."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from fedalign.errors import InputError
from partitions import Indices

Floats = npt.NDArray[np.float64]
MinSize = Annotated[
    int, Field(ge=1, description="smallest number of examples that a client may have")
]


def refuse_too_many(num_clients: int, examples: int, min_size: int = 1) -> None:
    """Raise `InputError` if there are fewer than `min_size` examples per client."""
    if min_size == 1 and num_clients > examples:
        raise InputError(f"num_clients: {num_clients} clients cannot share {examples} examples")
    if num_clients * min_size > examples:
        raise InputError(
            f"num_clients: {num_clients} clients with at least {min_size} examples each "
            f"(partition.min_size) need more than the {examples} examples there are"
        )


def equal(examples: int, num_clients: int) -> Indices:
    """Return sizes that differ by at most one, larger ones first.

    >>> equal(8, 3).tolist()
    [3, 3, 2]
    """
    size, rest = divmod(examples, num_clients)
    return size + (np.arange(num_clients) < rest).astype(np.int64)


def apportioned(weights: Floats, examples: int, min_size: int) -> Indices:
    """Return whole sizes in proportion to `weights`, none below `min_size`.

    Sizes are rounded by less than one so that they add up to `examples`; then the largest give what
    the smallest lack.

    >>> apportioned(np.array([0.7, 0.29, 0.01]), 10, min_size=1).tolist()
    [6, 3, 1]
    """
    ends = np.rint(np.cumsum(weights) / weights.sum() * examples).astype(np.int64)
    ends[-1] = examples
    return lifted(np.diff(ends, prepend=0), min_size)


def lifted(sizes: Indices, min_size: int) -> Indices:
    """Return sizes with the same sum, none below `min_size`.

    The result is as if each missing example were taken from the client that is largest at the time,
    the last of several; computed at once by lowering all sizes above some level to that level.

    >>> lifted(np.array([7, 5, 0, 1]), min_size=2).tolist()
    [5, 4, 2, 2]
    """
    lack = int(np.maximum(min_size - sizes, 0).sum())
    if not lack:
        return sizes
    low, high = min_size, int(sizes.max())  # the highest level above which there is enough
    while low < high:
        level = (low + high + 1) // 2
        enough = np.maximum(sizes - level, 0).sum() >= lack
        low, high = (level, high) if enough else (low, level - 1)
    spare = np.maximum(sizes - low, 0)
    too_much = int(spare.sum()) - lack
    spare[np.flatnonzero(spare)[:too_much]] -= 1
    return np.maximum(sizes, min_size) - spare


def topped_up(owner: Indices, num_clients: int, min_size: int, rng: np.random.Generator) -> Indices:
    """Return the owner of every example after the largest clients gave to those with too few.

    Sizes change as in `lifted`; which examples a client gives is random.
    """
    sizes = np.bincount(owner, minlength=num_clients)
    change = lifted(sizes, min_size) - sizes
    order = rng.permutation(len(owner))
    order = order[np.argsort(owner[order], kind="stable")]  # by owner, at random within
    first = np.repeat(np.cumsum(sizes) - sizes, sizes)
    given = order[np.arange(len(owner)) - first < np.maximum(-change, 0)[owner[order]]]
    owner = owner.copy()
    owner[rng.permutation(given)] = np.repeat(np.arange(num_clients), np.maximum(change, 0))
    return owner
