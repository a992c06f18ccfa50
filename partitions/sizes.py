"""How many examples each client has, and how the smallest get enough."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from fedalign.errors import InputError
from partitions import Indices

Floats = npt.NDArray[np.float64]
MinSize = Annotated[int, Field(ge=1, description="fewest examples that a client may have")]


def refuse_too_many(num_clients: int, examples: int, min_size: int = 1) -> None:
    """Raise `InputError` if there are not `min_size` examples for every client."""
    if min_size == 1 and num_clients > examples:
        raise InputError(f"num_clients: {num_clients} clients cannot share {examples} examples")
    if num_clients * min_size > examples:
        raise InputError(
            f"num_clients: {num_clients} clients with at least {min_size} examples each "
            f"(partition.min_size) need more than the {examples} examples there are"
        )


def equal(examples: int, num_clients: int) -> Indices:
    """Return sizes that differ by at most one, the larger first."""
    size, rest = divmod(examples, num_clients)
    return size + (np.arange(num_clients) < rest).astype(np.int64)


def apportioned(weights: Floats, examples: int, min_size: int) -> Indices:
    """Return whole sizes in proportion to `weights`, of which none is below `min_size`.

    Rounded so that they add up, each by less than one; what small ones lack, the largest give.
    """
    ends = np.rint(np.cumsum(weights) / weights.sum() * examples).astype(np.int64)
    ends[-1] = examples
    return lifted(np.diff(ends, prepend=0), min_size)


def lifted(sizes: Indices, min_size: int) -> Indices:
    """Return sizes of which none is below `min_size`, with the same sum.

    What is lacking is taken one by one from whoever is largest at the time, the last first; here
    all at once: those above some level come down to it.
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

    As `lifted` has it; which examples a client gives is drawn at random.
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
