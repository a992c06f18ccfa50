"""Few classes a client: shards of sorted examples, or a told number of classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import Field

from fedalign.errors import InputError
from partitions import Indices, deal
from partitions.labels import members, owners
from partitions.sizes import equal


@dataclass(frozen=True)
class Shards:
    """Examples sorted by class and cut into shards of equal size, of which each client gets some.

    The pathological split of McMahan et al. 2017 (arXiv 1602.05629, section 3). Shards differ in
    size by at most one. A client sees about as many classes as it has shards: fewer if two are of
    one class, more if classes meet within a shard.
    """

    shards_per_client: Annotated[int, Field(ge=1, description="shards that each client gets")] = 2

    def split(self, labels: Indices, num_clients: int, rng: np.random.Generator) -> list[Indices]:
        """Return the indices that each client owns, ascending.

        Raises:
            InputError: There are more shards than examples.
        """
        shards = num_clients * self.shards_per_client
        if shards > len(labels):
            raise InputError(
                f"partition.shards_per_client={self.shards_per_client}: {num_clients} clients need "
                f"{shards} shards, and there are {len(labels)} examples to make them of"
            )
        order = np.concatenate([rng.permutation(own) for own in members(labels)])
        client_of = rng.permutation(np.repeat(np.arange(num_clients), self.shards_per_client))
        owner = np.empty(len(labels), np.int64)
        owner[order] = np.repeat(client_of, equal(len(labels), shards))
        return deal(owner, num_clients)


@dataclass(frozen=True)
class ClassesPerClient:
    """Exactly so many classes a client; each class is shared equally by the clients that have it.

    The "#C = k" of Li et al. 2022 (arXiv 2102.02079), but here classes have
    equal numbers of clients, or one more, so that every class has an owner: each client takes, at
    random, of those that the fewest have taken before. Sizes differ as far as classes do.
    """

    classes_per_client: Annotated[int, Field(ge=1, description="classes that each client has")] = 2

    def split(self, labels: Indices, num_clients: int, rng: np.random.Generator) -> list[Indices]:
        """Return the indices that each client owns, ascending.

        Raises:
            InputError: There are fewer classes than a client is to have, some would have no owner,
                or classes have too few examples for so many owners.
        """
        classes = [rng.permutation(own) for own in members(labels)]
        self._check(len(classes), num_clients)
        lengths = np.array([len(own) for own in classes])
        takes = self._takes(lengths, num_clients, rng)
        counts = np.zeros(takes.shape, np.int64)
        for column, length in enumerate(lengths):
            takers = rng.permutation(np.flatnonzero(takes[:, column]))
            counts[takers, column] = equal(length, len(takers))
        return deal(owners(classes, counts), num_clients)

    def _check(self, classes: int, num_clients: int) -> None:
        wanted = self.classes_per_client
        if wanted > classes:
            raise InputError(f"partition.classes_per_client={wanted}: there are {classes} classes")
        if wanted * num_clients < classes:
            raise InputError(
                f"partition.classes_per_client={wanted}: {num_clients} clients have "
                f"{wanted * num_clients} of the {classes} classes at most, and the examples of the "
                "others would belong to nobody"
            )

    def _takes(self, lengths: Indices, num_clients: int, rng: np.random.Generator) -> Indices:
        """Return which classes each client has, `(K, C)` of 0 and 1."""
        takes = np.zeros((num_clients, len(lengths)), np.int64)
        taken, ties = np.zeros(len(lengths)), rng.random(takes.shape)
        for client in range(num_clients):
            chosen = np.argsort(taken + ties[client])[: self.classes_per_client]
            takes[client, chosen] = 1
            taken[chosen] += 1
            taken[taken == lengths] = np.inf  # who has it has an example each: no more
        if (takes.sum(0) > lengths).any():
            wanted = self.classes_per_client
            raise InputError(
                f"partition.classes_per_client={wanted}: {num_clients} clients with {wanted} of "
                f"{len(lengths)} classes each, whose {lengths.sum()} examples are too few for that"
            )
        return takes
