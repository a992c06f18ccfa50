"""A partitioner of one's own: even classes for some clients, odd ones for the rest."""

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from fedalign.errors import InputError
from fedalign.partitioning import Indices, deal


@dataclass(frozen=True)
class ByParity:
    """Every other client has examples of even classes, the others of odd ones.

    A share `mixed` of the examples is dealt to all clients alike.
    """

    mixed: Annotated[float, Field(ge=0, le=1, description="share dealt to all alike")] = 0.0

    def split(self, labels: Indices, num_clients: int, rng: np.random.Generator) -> list[Indices]:
        """Return the indices that each client owns, ascending."""
        if num_clients > len(labels):
            raise InputError(f"num_clients: {num_clients} cannot share {len(labels)} examples")
        clients = np.arange(num_clients)
        owner = rng.permutation(np.arange(len(labels)) % num_clients)
        skewed = rng.random(len(labels)) >= self.mixed
        for parity in (0, 1) if num_clients > 1 else ():
            mine = np.flatnonzero(skewed & (labels % 2 == parity))
            owner[mine] = rng.permutation(np.resize(clients[parity::2], len(mine)))
        return deal(owner, num_clients)
