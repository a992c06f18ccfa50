"""What server and clients derive from a configuration alone, so that it need not be sent."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from flwr.app import Context, UserConfigValue
from flwr.serverapp.strategy import Strategy

from fedalign.algorithm import Stack
from fedalign.data import Dataset, Part, Spec
from fedalign.errors import InputError
from fedalign.federation.examples import hold_out
from fedalign.masks.plan import MaskPlan, phases, trainable_mask
from fedalign.messages.codec import Codec
from fedalign.network.device import pick_device
from fedalign.network.network import Network
from fedalign.partitioning import checked, split
from fedalign.rng import rng
from fedalign.settings.config import Config, from_run_config
from fedalign.settings.contracts import (
    FLOWER_SAMPLING,
    ClientAlgorithm,
    HasEpochs,
    HasParts,
    HasSpec,
    Partitioner,
    PlansMasks,
    Source,
    StrategyArguments,
    TransformsImages,
)
from fedalign.settings.registry import traits

PLACE = {"partition-id", "num-partitions"}  # of a client, in its node's config


class Held(NamedTuple):
    """Which examples a client has: to train on, and to test on, which may be the same."""

    trained: np.ndarray
    tested: np.ndarray


class Federation:
    """The data, who owns which of it, and the network: made on first use, once a process."""

    def __init__(self, config: Config):
        self.config = config
        self.room = math.inf  # the largest stack that the GPU is not known to have no room for
        self._dealt: dict[int, tuple[list[np.ndarray], list[np.ndarray]]] = {}

    @cached_property
    def train(self) -> Dataset:
        """The training set, on the device."""
        return self._load("train")

    @cached_property
    def test(self) -> Dataset | None:
        """The official test set, if there is one; only the server asks for it."""
        return self._load("test") if self._has("test") else None

    @cached_property
    def source(self) -> Source:
        """Where the data comes from."""
        built: Source = self.config.data.build()
        return built

    @cached_property
    def spec(self) -> Spec:
        """What every example looks like; some sources know it without having any."""
        return self.source.spec() if isinstance(self.source, HasSpec) else self.train.spec

    @cached_property
    def network(self) -> Network:
        """The network, initialised from the run's seed."""
        config = self.config
        return Network(self._module(), self.spec, pick_device(config.device), config.precision)

    def own_start(self, partition: int) -> torch.Tensor:
        """Return the first weights `(F,)` of one client, where each has its own."""
        return self.network.layout.flatten(self._module(partition)).to(self.network.device)

    def _module(self, *whose: int) -> torch.nn.Module:
        config, spec = self.config, self.spec
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng(config.seed, "init", *whose).integers(2**31)))
            built: torch.nn.Module = config.model.build(shape=spec.shape, classes=spec.classes)
        return built

    @cached_property
    def client(self) -> ClientAlgorithm:
        """The client algorithm."""
        built: ClientAlgorithm = self.config.client.build()
        return built

    @cached_property
    def partitioner(self) -> Partitioner:
        """Who deals the examples."""
        built: Partitioner = self.config.partition.build()
        return built

    @cached_property
    def tuner(self) -> Any:
        """The client algorithm as it fine-tunes: with epochs of its own."""
        part, epochs = self.config.client, self.config.evaluation.finetune_epochs
        if "epochs" not in part.options:
            raise InputError(
                f"evaluation.finetune_epochs: client algorithm {part.name!r} has no option 'epochs'"
            )
        return replace(part, options={**part.options, "epochs": epochs}).build()

    def stack(self, clients: int) -> int:
        """Return how many of a round's `clients` to train as one.

        By default whatever is fastest, see `stack_times`.
        """
        wanted = self.config.simulation.stack
        if wanted != "auto":
            return wanted
        times = self.stack_times(clients)
        return min(times, key=lambda size: times[size], default=1)

    def stack_times(self, clients: int) -> dict[int, float]:
        """Return the seconds that a client takes in stacks of 1, 4, 16, …, as long as they fall.

        Measured with a short stretch of local training. A stack must win by a tenth: so the same
        machine comes to the same choice. It has at most an eighth of a round's `clients`, however
        many workers there are, so that eight may share them. Empty where there is no choice.
        """
        most = -(-clients // 8)
        if most == 1 or self.network.stacked is None:
            return {}
        times = {1: self._seconds(1)}
        for size in (min(size, most) for size in (4, 16, 64)):
            if size <= max(times):
                break
            try:
                taken = self._seconds(size)
            except torch.OutOfMemoryError:
                break
            if taken > 0.9 * min(times.values()):
                break
            times[size] = taken
        return times

    def _seconds(self, size: int) -> float:
        network, rows = self.network, [np.arange(min(32, len(self.train)))] * size
        start, taken = network.receive(network.initial), []
        for _ in range(3):
            block, streams = start.repeat(size, 1), [rng(0) for _ in rows]
            began = time.perf_counter()
            stack = Stack(network, self.train, start, block, rows, streams, [MaskPlan()] * size)
            float(self.client.train(stack).losses.sum())  # a GPU may still be at work
            taken.append(time.perf_counter() - began)
        return min(taken) / size

    @property
    def codec(self) -> Codec:
        """How models travel."""
        return Codec(self.network.layout, self.config.wire == "float16")

    def strategy(self, num_clients: int | None = None) -> Strategy:
        """Return a fresh strategy, for a server that draws the clients itself."""
        config, network = self.config, self.network
        num_clients = config.num_clients if num_clients is None else num_clients
        handed: StrategyArguments = {
            "layout": network.layout,
            "symmetry": network.symmetry,
            "initial": network.initial,
            "seed": config.seed,
            "num_clients": num_clients,
            "num_sampled_clients": min(config.clients_per_round or num_clients, num_clients),
        }
        built: Strategy = config.strategy.build(**handed, **FLOWER_SAMPLING)
        self._check_plan(built)
        return built

    def _check_plan(self, strategy: Any) -> None:
        """Raise `InputError` for a mask plan that clients, or those around it, could not follow."""
        moves = traits("strategies", self.config.strategy.name).moves_neurons
        layout = self.network.layout
        while strategy is not None:
            if isinstance(strategy, PlansMasks):
                try:
                    epochs = self.client.epochs if isinstance(self.client, HasEpochs) else 1
                    phases(strategy.plan(1), layout, epochs, epochs)
                except ValueError as error:
                    raise InputError(f"strategy: {error}") from None
                if moves and trainable_mask(strategy.plan(1), layout) is not None:
                    raise InputError(
                        "strategy.base: its mask fixes weights at their places for the round, and "
                        f"{self.config.strategy.name!r} moves neurons (fixed_ratio: 0, or a "
                        "schedule in which all weights train, such as complement_half)"
                    )
            inner = (v for v in vars(strategy).values() if isinstance(v, Strategy))
            strategy = next(inner, None)

    def shards(self, num_clients: int) -> list[np.ndarray]:
        """Return who trains on which examples: the same on every machine, from the seed."""
        return self._deal(num_clients)[0]

    def holdouts(self, num_clients: int) -> list[np.ndarray]:
        """Return which examples each client keeps back to test on; with `shards`, all it owns."""
        return self._deal(num_clients)[1]

    def tested_on(self, num_clients: int) -> list[np.ndarray]:
        """Return which examples each client evaluates a model on; some may have none.

        Those it keeps back, or, where nobody is to keep any back, those it trains on.
        """
        held_out = self.config.evaluation.holdout > 0
        return self.holdouts(num_clients) if held_out else self.shards(num_clients)

    def held(self, partition: int, count: int) -> Held:
        """Return which examples one of `count` clients trains on, and which it tests on."""
        return Held(self.shards(count)[partition], self.tested_on(count)[partition])

    def seen(
        self, num_clients: int, partitions: Sequence[int], rows: Sequence[np.ndarray]
    ) -> tuple[Dataset, list[np.ndarray]]:
        """Return the data as clients see it, and where in it the `rows` of each one are.

        That is the training set itself, unless the partitioner has a method `transform`. Then it is
        a data set of these rows only, made anew in each call: of a hundred thousand clients those
        cost something who are asked.
        """
        if not isinstance(self.partitioner, TransformsImages):
            return self.train, list(rows)
        images = [
            self._transformed(num_clients, partition, own)
            for partition, own in zip(partitions, rows, strict=True)
        ]
        ends = np.cumsum([len(own) for own in rows])
        places = np.split(np.arange(ends[-1]), ends[:-1])
        labels = self.train.labels[torch.from_numpy(np.concatenate(rows))]
        return replace(self.train, images=torch.cat(images), labels=labels, groups=None), places

    def _transformed(self, num_clients: int, partition: int, rows: np.ndarray) -> torch.Tensor:
        """Return some of a client's images; each is the same whichever others are asked for."""
        own = np.sort(np.concatenate([part[partition] for part in self._deal(num_clients)]))
        images, stream = self.train.images, rng(self.config.seed, "transform", partition)
        assert isinstance(self.partitioner, TransformsImages)
        changed = self.partitioner.transform(
            images[torch.from_numpy(own)].cpu(), partition, num_clients, stream
        )
        chosen: torch.Tensor = changed[torch.from_numpy(np.searchsorted(own, rows))]
        return chosen.to(images.device)

    def check_testers(self, tests: Collection[int]) -> None:
        """Raise `InputError` if clients that have so many examples to test on cannot evaluate."""
        if self.config.evaluation.finetune_epochs:
            self.tuner  # noqa: B018
        if not any(tests):
            raise InputError(
                f"evaluation.holdout: {self.config.evaluation.holdout:g} of the examples of a "
                "client is less than one for every client, so nobody could evaluate"
            )

    def _deal(self, num_clients: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        if num_clients not in self._dealt:
            seed, owned = self.config.seed, self._owned(num_clients)
            share, kept = self.config.evaluation.holdout, [rows[:0] for rows in owned]
            for i, rows in enumerate(owned) if share else ():
                owned[i], kept[i] = hold_out(rows, share, rng(seed, "holdout", i))
            self._dealt[num_clients] = owned, kept
        return self._dealt[num_clients]

    def _owned(self, num_clients: int) -> list[np.ndarray]:
        """Return which examples each client has, to train on or to keep back."""
        config, data = self.config, self.train
        called, stream = config.partition.name, rng(config.seed, "partition")
        groups = None if data.groups is None else data.groups.cpu().numpy()
        told = {"called": called, "data": f"data set {config.data.name!r}"}
        labels = data.labels.cpu().numpy()
        dealt = split(self.partitioner, labels, num_clients, stream, groups, **told)
        return checked(dealt, num_clients, len(labels), called)

    @cached_property
    def reference(self) -> Dataset | None:
        """The training set, where the server has one; it has none where only clients have data."""
        return self.train if self._has("train") else None

    def shared(self) -> dict[str, Any]:
        """Return the training set with NumPy arrays, which processes of a machine can share."""
        return self.train.to_numpy()

    def adopt(self, shared: dict[str, Any]) -> None:
        """Take the training set that another process has shared, in place of one from disk."""
        train = Dataset.from_numpy(shared).to(pick_device(self.config.device))
        self.__dict__.update(train=train, spec=train.spec)

    def _has(self, part: Part) -> bool:
        return self.source.has(part) if isinstance(self.source, HasParts) else True

    def _load(self, part: Part) -> Dataset:
        data: Dataset = self.source.load(part)
        return data.to(pick_device(self.config.device))


def place_of(context: Context) -> tuple[int, int]:
    """Return a client's partition, and how many there are; 0 where nobody has dealt any.

    A node with data of its own may not have been given a partition: its id will do.
    """
    told = context.node_config
    partition, count = told.get("partition-id", context.node_id), told.get("num-partitions", 0)
    return int(partition), int(count)


def federation_of(run_config: Mapping[str, UserConfigValue]) -> Federation:
    """Return the federation of a Flower run config; a process that serves many clients keeps it."""
    return _federation(tuple(sorted(run_config.items())))


@lru_cache(maxsize=1)
def _federation(items: tuple[tuple[str, UserConfigValue], ...]) -> Federation:
    return Federation(from_run_config(dict(items)))
