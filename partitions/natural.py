"""The split that comes with the data: by speaker, writer, or whoever an example is from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from fedalign.errors import InputError
from partitions import Indices, deal
from partitions.sizes import equal


@dataclass(frozen=True)
class Natural:
    """Examples stay with the group that they are from: one speaker's or writer's, one client's.

    With as many clients as groups, client k has the k-th group, in the order of their ids. With
    fewer, whole groups are dealt at random, to each client as many, or one more.
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
                f"{len(labels)} examples, and a group is not divided"
            )
        client_of = np.repeat(np.arange(num_clients), equal(len(ids), num_clients))
        if num_clients < len(ids):
            client_of = rng.permutation(client_of)
        return deal(client_of[group], num_clients)
