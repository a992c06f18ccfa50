"""Everybody gets the same mix."""

from dataclasses import dataclass

import numpy as np

from partitions import Indices, deal
from partitions.sizes import equal, refuse_too_many


@dataclass(frozen=True)
class IID:
    """Examples dealt at random in equal numbers; sizes differ by at most one."""

    def split(self, labels: Indices, num_clients: int, rng: np.random.Generator) -> list[Indices]:
        """Return the indices that each client owns, ascending.

        Raises:
            InputError: There are more clients than examples.
        """
        refuse_too_many(num_clients, len(labels))
        owner = np.empty(len(labels), np.int64)
        sizes = equal(len(labels), num_clients)
        owner[rng.permutation(len(labels))] = np.repeat(np.arange(num_clients), sizes)
        return deal(owner, num_clients)
