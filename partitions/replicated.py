"""Every client owns all examples."""

from dataclasses import dataclass

import numpy as np

from partitions import Indices


@dataclass(frozen=True)
class Replicated:
    """Every client owns every example and visits them in its own order.

    For models trained apart on the same data, as in studies of linear mode connectivity.
    """

    def split(
        self,
        labels: Indices,
        num_clients: int,
        rng: np.random.Generator,  # noqa: ARG002
    ) -> list[Indices]:
        """Return the indices that each client owns: all, ascending."""
        return [np.arange(len(labels))] * num_clients
