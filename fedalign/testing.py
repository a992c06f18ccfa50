"""Checks for the tests of those who write their own parts."""

from __future__ import annotations

from typing import Any

import numpy as np

from fedalign.errors import InputError
from fedalign.partitioning import Indices, split


def check_partitioner(
    partitioner: Any,
    *,
    labels: Indices | None = None,
    num_clients: int = 10,
    groups: Indices | None = None,
    overlap: bool = False,
    partial: bool = False,
    may_be_empty: bool = False,
) -> None:
    """Raise `AssertionError` unless a run can rely on this partitioner.

    A partitioner must

    - give each client an ascending int64 array of indices in range,
    - give every index to exactly one client,
    - give the same result for the same generator, and draw from no other,
    - leave labels and groups unchanged,
    - and do all this for a single client too, or raise `InputError`.

    Args:
        partitioner: an instance, made with its options.
        labels: the class of every example, `(N,)`; by default 1,000 examples of ten classes.
        num_clients: a number of clients for which it must not raise `InputError`.
        groups: the group of every example, `(N,)`; by default 50 groups if `labels` is not given.
        overlap: allow indices that belong to several clients.
        partial: allow indices that belong to no client.
        may_be_empty: allow clients without examples, although a run would end with an error.
    """
    if labels is None:
        labels = np.random.default_rng(0).permutation(np.arange(1000) % 10)
        groups = np.arange(1000) // 20 if groups is None else groups
    allowed = overlap, partial, may_be_empty
    _check_shares(_again(partitioner, labels, num_clients, groups), labels, num_clients, *allowed)
    try:
        alone = _again(partitioner, labels, 1, groups)
    except InputError:
        return
    _check_shares(alone, labels, 1, *allowed)


def _again(
    partitioner: Any, labels: Indices, num_clients: int, groups: Indices | None
) -> list[Indices]:
    """Return a partition, after checking that a second call gives the same and changes nothing."""
    given = labels.copy(), None if groups is None else groups.copy()
    before = np.random.get_state()[1:3]  # type: ignore[index]
    first, second = (
        split(partitioner, given[0], num_clients, np.random.default_rng(1), given[1])
        for _ in range(2)
    )
    after = np.random.get_state()[1:3]  # type: ignore[index]
    _must(np.array_equal(given[0], labels), "split changed the labels it was given")
    if groups is not None and given[1] is not None:
        _must(np.array_equal(given[1], groups), "split changed the groups it was given")
    unused = np.array_equal(before[0], after[0]) and before[1] == after[1]
    _must(unused, "split drew from NumPy's global generator, not from the one it was given")
    same = len(first) == len(second) and all(map(np.array_equal, first, second))
    _must(same, "split returned another partition for the same generator")
    return first


def _check_shares(
    shares: list[Indices],
    labels: Indices,
    num_clients: int,
    overlap: bool,
    partial: bool,
    may_be_empty: bool,
) -> None:
    counted = f"{len(shares)} shares for {num_clients} clients"
    _must(isinstance(shares, list) and len(shares) == num_clients, f"split returned {counted}")
    for client, share in enumerate(shares):
        _check_share(client, share, len(labels), may_be_empty)
    counts = np.bincount(np.concatenate(shares), minlength=len(labels))
    twice, unowned = np.flatnonzero(counts > 1), np.flatnonzero(counts == 0)
    shared = f"{len(twice)} indices belong to several clients, such as {twice[:1]}"
    _must(overlap or not len(twice), f"{shared}; overlap=True allows that")
    missing = f"{len(unowned)} indices belong to no client, such as {unowned[:1]}"
    _must(partial or not len(unowned), f"{missing}; partial=True allows that")


def _check_share(client: int, share: Indices, examples: int, may_be_empty: bool) -> None:
    whose = f"client {client}'s share"
    _must(isinstance(share, np.ndarray), f"{whose} is {type(share).__name__}, not a NumPy array")
    _must(share.dtype == np.int64 and share.ndim == 1, f"{whose} is {share.dtype} {share.shape}")
    _must(may_be_empty or len(share) > 0, f"{whose} is empty; may_be_empty=True allows that")
    ascending = bool((np.diff(share) > 0).all())
    _must(ascending, f"{whose} is not strictly ascending: {share[:10]}")
    inside = not len(share) or (share[0] >= 0 and share[-1] < examples)
    _must(inside, f"{whose} has an index outside 0..{examples - 1}")


def _must(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)
