"""Call partitioners, check what they return and write it to a file.

`settings.contracts` says what a partitioner is.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fedalign.errors import InputError
from fedalign.files import reporting

Indices = npt.NDArray[np.int64]


def split(
    partitioner: Any,
    labels: Indices,
    num_clients: int,
    rng: np.random.Generator,
    groups: Indices | None = None,
    *,
    called: str = "",
    data: str = "this data set",
) -> list[Indices]:
    """Return what a partitioner's `split` does, given group ids if it has a parameter for them.

    Args:
        partitioner: see `fedalign.settings.contracts.Partitioner`.
        labels: The class of every example, `(N,)`.
        num_clients: Length of the result.
        rng: The only source of randomness.
        groups: The group of every example, `(N,)`; None where the data has none.
        called: What the partitioner is called in errors; its class otherwise.
        data: What the data set is called in errors.

    Raises:
        InputError: The partitioner needs groups and there are none.
    """
    asked = inspect.signature(partitioner.split).parameters.get("groups")
    given = {} if asked is None else {"groups": groups}
    if asked is not None and groups is None and asked.default is asked.empty:
        called = called or type(partitioner).__name__
        raise InputError(f"partition: {called} needs groups, which {data} has not")
    dealt: list[Indices] = partitioner.split(labels, num_clients, rng, **given)
    return dealt


def checked(dealt: Sequence[Any], num_clients: int, examples: int, called: str) -> list[Indices]:
    """Return what a partitioner dealt, as int64.

    Raises:
        InputError: It is not one share a client, a client has no example, or has one that there
            is not.
    """
    if len(dealt) != num_clients:
        raise InputError(f"partition: {called} made {len(dealt)} shares for {num_clients} clients")
    shares = [np.asarray(share, np.int64) for share in dealt]
    empty = [client for client, share in enumerate(shares) if not len(share)]
    if empty:
        raise InputError(
            f"partition: {called} left {len(empty)} of {num_clients} clients without an example, "
            f"such as client {empty[0]}, and each must have one"
        )
    every = np.concatenate(list({id(share): share for share in shares}.values()))  # each once
    if every.min() < 0 or every.max() >= examples:
        wrong = every.min() if every.min() < 0 else every.max()
        raise InputError(f"partition: {called} dealt example {wrong}, outside 0..{examples - 1}")
    return shares


def write_indices(shares: Sequence[Indices], file: Path) -> None:
    """Write the indices of each client as the partitioner `indices` reads them.

    Raises:
        InputError: The file ends neither in `.json` nor in `.npz`.
        FedalignError: It cannot be written.
    """
    if file.suffix == ".npz":
        arrays = {str(client): share for client, share in enumerate(shares)}
        with reporting(file), file.open("wb") as open_file:
            np.savez_compressed(open_file, **arrays)  # type: ignore[arg-type]
    elif file.suffix == ".json":
        lists = ",\n".join(json.dumps(share.tolist()) for share in shares)
        with reporting(file):
            file.write_text(f"[\n{lists}\n]\n", "utf-8")
    else:
        raise InputError(f"--save: {str(file)!r} must end in .json or .npz")


def deal(owner: Indices, num_clients: int) -> list[Indices]:
    """Return the indices that each client owns, ascending, from the owner of every example `(N,)`.

    All clients at once: a hundred thousand of them take a second. An owner of -1 is nobody.
    """
    order = np.argsort(owner, kind="stable")
    ends = np.cumsum(np.bincount(owner + 1, minlength=num_clients + 1)).tolist()
    return [order[start:end] for start, end in pairwise(ends)]
