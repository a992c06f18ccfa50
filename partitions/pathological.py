"""Few classes per client: shards of sorted examples, or a fixed number of classes."""

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
    """Examples sorted by class and cut into equal shards; each client gets a few at random.

    The pathological split of McMahan et al. 2017 (arXiv 1602.05629, section 3). Sizes of shards
    differ by at most one. A client sees about as many classes as it has shards: fewer if two shards
    hold one class, more if a shard crosses the border between classes.

    >>> labels = np.array([0, 0, 0, 0, 1, 1, 1, 1])
    >>> shares = Shards(shards_per_client=1).split(labels, 2, np.random.default_rng(0))
    >>> sorted(labels[share].tolist() for share in shares)
    [[0, 0, 0, 0], [1, 1, 1, 1]]
    """

    shards_per_client: Annotated[
        int, Field(ge=1, description="shards that each client receives")
    ] = 2

    def split(self, labels: Indices, num_clients: int, rng: np.random.Generator) -> list[Indices]:
        """Return the indices that each client owns, ascending.

        Raises:
            InputError: There are more shards than examples.
        """
        shards = num_clients * self.shards_per_client
        if shards > len(labels):
            raise InputError(
                f"partition.shards_per_client={self.shards_per_client}: {num_clients} clients need "
                f"{shards} shards, more than the {len(labels)} examples"
            )
        order = np.concatenate([rng.permutation(indices) for indices in members(labels)])
        client_of = rng.permutation(np.repeat(np.arange(num_clients), self.shards_per_client))
        owner = np.empty(len(labels), np.int64)
        owner[order] = np.repeat(client_of, equal(len(labels), shards))
        return deal(owner, num_clients)


@dataclass(frozen=True)
class ClassesPerClient:
    """A fixed number of classes per client; the clients of a class share its examples equally.

    The "#C = k" split of Li et al. 2022 (arXiv 2102.02079), except that here the numbers of clients
    per class differ by at most one, so every class has an owner: each client in turn chooses at
    random among the classes with the fewest clients so far. Sizes differ as classes do.
    """

    classes_per_client: Annotated[int, Field(ge=1, description="classes that each client has")] = 2

    def split(self, labels: Indices, num_clients: int, rng: np.random.Generator) -> list[Indices]:
        """Return the indices that each client owns, ascending.

        Raises:
            InputError: There are fewer classes than each client needs, a class would have no owner,
                or a class has fewer examples than owners.
        """
        classes = [rng.permutation(indices) for indices in members(labels)]
        self._check(len(classes), num_clients)
        lengths = np.array([len(indices) for indices in classes])
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
                f"partition.classes_per_client={wanted}: {num_clients} clients have at most "
                f"{wanted * num_clients} of the {classes} classes; the other classes would have no "
                "owner"
            )

    def _takes(self, lengths: Indices, num_clients: int, rng: np.random.Generator) -> Indices:
        """Return 1 where a client has a class and 0 elsewhere, `(K, C)`."""
        takes = np.zeros((num_clients, len(lengths)), np.int64)
        taken, ties = np.zeros(len(lengths)), rng.random(takes.shape)
        for client in range(num_clients):
            chosen = np.argsort(taken + ties[client])[: self.classes_per_client]
            takes[client, chosen] = 1
            taken[chosen] += 1
            taken[taken == lengths] = np.inf  # one example per owner: the class is full
        if (takes.sum(0) > lengths).any():
            wanted = self.classes_per_client
            raise InputError(
                f"partition.classes_per_client={wanted}: {lengths.sum()} examples of "
                f"{len(lengths)} classes are too few for {num_clients} clients with {wanted} "
                "classes each"
            )
        return takes
