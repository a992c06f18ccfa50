"""The split that comes with the data: by speaker, writer, or other origin of the examples."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedalign.errors import InputError
from partitions import Indices, deal
from partitions.sizes import equal


@dataclass(frozen=True)
class Natural:
    """Each group of the data, such as the examples of one speaker or writer, stays together.

    With as many clients as groups, client k owns the k-th group, in the order of their ids. With
    fewer clients, whole groups are dealt at random, in numbers that differ by at most one.

    >>> labels, speakers = np.array([0, 1, 0, 1]), np.array([5, 3, 5, 5])
    >>> shares = Natural().split(labels, 2, np.random.default_rng(0), speakers)
    >>> [share.tolist() for share in shares]
    [[1], [0, 2, 3]]
    """

    def split(
        self, labels: Indices, num_clients: int, rng: np.random.Generator, groups: Indices
    ) -> list[Indices]:
        """Return the indices that each client owns, ascending.

        Raises:
            InputError: There are more clients than groups.
        """
        ids, group = np.unique(groups, return_inverse=True)
        if num_clients > len(ids):
            raise InputError(
                f"num_clients: {num_clients} clients cannot share the {len(ids)} groups of the "
                f"{len(labels)} examples, because a group is never divided"
            )
        client_of = np.repeat(np.arange(num_clients), equal(len(ids), num_clients))
        if num_clients < len(ids):
            client_of = rng.permutation(client_of)
        return deal(client_of[group], num_clients)
