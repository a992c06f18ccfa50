"""No skew: every client draws from the same distribution."""

from dataclasses import dataclass

import numpy as np

from partitions import Indices, deal
from partitions.sizes import equal, refuse_too_many


@dataclass(frozen=True)
class IID:
    """Examples dealt at random in equal numbers; sizes differ by at most one.

    >>> labels = np.array([0, 0, 1, 1, 2, 2, 2])
    >>> [len(indices) for indices in IID().split(labels, 3, np.random.default_rng(0))]
    [3, 2, 2]
    """

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
