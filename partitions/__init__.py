"""Who gets which examples: every partitioner deals the indices of a data set to clients."""

from typing import Protocol

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


class Partitioner(Protocol):
    """A way to deal examples to clients; its options are the parameters of its constructor."""

    def split(self, labels: Indices, num_clients: int, rng: np.random.Generator) -> list[Indices]:
        """Return the indices that each client owns, ascending.

        Every index belongs to one client, unless the partitioner says otherwise.

        Args:
            labels: The class of every example, `(N,)`.
            num_clients: Length of the result.
            rng: The only source of randomness.
        """
        ...
