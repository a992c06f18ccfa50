"""Which examples each client has, and what they look like to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np
import torch

from fedalign.data import Dataset
from fedalign.errors import InputError, named
from fedalign.partitioning import Indices, checked, split
from fedalign.rng import rng
from fedalign.seeding import seeded
from fedalign.settings.config import Config
from fedalign.settings.contracts import NamesRows, Partitioner, TransformsImages


class Held(NamedTuple):
    """The examples of one client, as rows of the training set.

    Attributes:
        trained: the rows that the client trains on.
        held_out: the rows that it keeps back to test on; None where no client keeps any back.
    """

    trained: np.ndarray
    held_out: np.ndarray | None = None

    @property
    def tested(self) -> np.ndarray:
        """The rows that the client tests on: held-out ones, or else those that it trains on."""
        return self.trained if self.held_out is None else self.held_out

    @property
    def owned(self) -> np.ndarray:
        """All rows of the client, ascending."""
        both = [self.trained] if self.held_out is None else [self.trained, self.held_out]
        return np.sort(np.concatenate(both))


class Examples(Protocol):
    """The training set, and which of its examples each client has."""

    @property
    def data(self) -> Dataset:
        """The training set, on the device; it may end with examples that are only tested on."""
        ...

    def held(self, partition: int, num_clients: int) -> Held:
        """Return the examples of one of `num_clients` clients."""
        ...

    def seen(
        self, num_clients: int, partitions: Sequence[int], rows: Sequence[np.ndarray]
    ) -> tuple[Dataset, list[np.ndarray]]:
        """Return a data set as some clients see it, and each one's rows of that data set.

        Args:
            num_clients: the number of all clients.
            partitions: the clients that are asked for.
            rows: for each of them, rows of `data`.
        """
        ...


@dataclass(frozen=True, eq=False)
class DealtExamples:
    """One data set that the partitioner of a configuration deals to the clients.

    Every machine deals alike, since all draws come from the run's seed, or the partition's own.
    """

    config: Config
    data: Dataset
    _dealt: dict[int, list[Held]] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def partitioner(self) -> Partitioner:
        """Deals the examples."""
        built: Partitioner = self.config.partition.build()
        return built

    def held(self, partition: int, num_clients: int) -> Held:
        """Return the examples of one of `num_clients` clients."""
        if num_clients not in self._dealt:
            shares, config = self._shares(num_clients), self.config
            share, seed = config.evaluation.holdout, config.partition_seed
            self._dealt[num_clients] = hold_out_all(shares, share, seed)
        return self._dealt[num_clients][partition]

    def seen(
        self, num_clients: int, partitions: Sequence[int], rows: Sequence[np.ndarray]
    ) -> tuple[Dataset, list[np.ndarray]]:
        """Return a data set as some clients see it, and each one's rows of that data set.

        Without a method `transform` of the partitioner that is the training set itself. With one,
        each call makes a data set of `rows` alone: only the clients that are asked for cost memory
        and time, even with 100,000 clients.
        """
        if not isinstance(self.partitioner, TransformsImages):
            return self.data, list(rows)
        images = [
            self._transformed(self.partitioner, num_clients, partition, own)
            for partition, own in zip(partitions, rows, strict=True)
        ]
        ends = np.cumsum([len(own) for own in rows])
        places = np.split(np.arange(ends[-1]), ends[:-1])
        labels = self.data.labels[torch.from_numpy(np.concatenate(rows))]
        return replace(self.data, images=torch.cat(images), labels=labels, groups=None), places

    def _transformed(
        self, partitioner: TransformsImages, num_clients: int, partition: int, rows: np.ndarray
    ) -> torch.Tensor:
        """Return some of a client's images; each is the same whichever others are asked for."""
        owned = self.held(partition, num_clients).owned
        images, seed = self.data.images, self.config.partition_seed
        place = named(f"partition: {self.config.partition.name!r}: transform")
        with place, seeded(seed, "transform", partition):
            stream = rng(seed, "transform", partition)
            changed = partitioner.transform(
                images[torch.from_numpy(owned)].cpu(), partition, num_clients, stream
            )
        chosen: torch.Tensor = changed[torch.from_numpy(np.searchsorted(owned, rows))]
        return chosen.to(images.device)

    @cached_property
    def of_server(self) -> np.ndarray:
        """The rows that the server keeps and no client has, ascending."""
        stream = rng(self.config.partition_seed, "server_share")
        return keep_back(len(self.data), self._groups, self.config.evaluation.server_share, stream)

    @property
    def _groups(self) -> Indices | None:
        return None if self.data.groups is None else self.data.groups.cpu().numpy()

    def _shares(self, num_clients: int) -> list[Indices]:
        """Return the rows that each client owns."""
        if not len(self.of_server):
            return self._dealt_of(self.data.labels.cpu().numpy(), self._groups, num_clients)
        rows, groups = np.arange(len(self.data)), self._groups
        if not isinstance(self.partitioner, NamesRows):
            rows = np.setdiff1d(rows, self.of_server)
        labels = self.data.labels.cpu().numpy()[rows]
        dealt = self._dealt_of(labels, None if groups is None else groups[rows], num_clients)
        own = {id(share): np.setdiff1d(rows[share], self.of_server) for share in dealt}
        shares = [own[id(share)] for share in dealt]  # clients may share one
        return checked(shares, num_clients, len(self.data), self.config.partition.name)

    def _dealt_of(self, labels: Indices, groups: Indices | None, num_clients: int) -> list[Indices]:
        """Return what the partitioner deals to each client of examples with these labels."""
        config = self.config
        name, seed = config.partition.name, config.partition_seed
        known = {"called": name, "data": f"data set {config.data.name!r}"}
        with named(f"partition: {name!r}"), seeded(seed, "partition"):
            stream = rng(seed, "partition")
            dealt = split(self.partitioner, labels, num_clients, stream, groups, **known)
            return checked(dealt, num_clients, len(labels), name)


def keep_back(
    examples: int, groups: Indices | None, share: float, stream: np.random.Generator
) -> np.ndarray:
    """Return the rows that the server keeps, ascending: a random share of all.

    Of each group of the data, one example at least is left, so that no client is left without.

    Raises:
        InputError: they are none, or all.
    """
    count, order = round(share * examples), stream.permutation(examples)
    if share and not 0 < count < examples:
        raise InputError(
            f"evaluation.server_share: {share:g} of {examples} examples is {count}, and the server "
            "and the clients must have some"
        )
    if groups is not None:
        _, first = np.unique(groups[order], return_index=True)
        order = np.delete(order, first)
    return np.sort(order[:count])


def hold_out_all(shares: Sequence[np.ndarray], share: float, seed: int) -> list[Held]:
    """Return what each client trains on and holds out; a share of 0 holds nothing out."""
    if not share:
        return list(map(Held, shares))
    return [Held(*hold_out(rows, share, rng(seed, "holdout", i))) for i, rows in enumerate(shares)]


def hold_out(
    rows: np.ndarray, share: float, stream: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that a client trains on and those that it holds out, both in their order.

    It holds out `round(share * n)` of its n rows (half to even), drawn at random, but never all of
    them: a client with one example trains on it and has nothing to test on.
    """
    count = min(round(share * len(rows)), len(rows) - 1)
    out = np.zeros(len(rows), bool)
    if count > 0:
        out[stream.choice(len(rows), count, replace=False)] = True
    return rows[~out], rows[out]
