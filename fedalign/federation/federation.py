"""What server and clients derive from a configuration alone, so that it need not be sent."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, UserConfigValue

from fedalign.data import Dataset, Part, Spec
from fedalign.data.classes import spec_of
from fedalign.errors import InputError, named, shortened
from fedalign.federation.algorithms import Algorithms
from fedalign.federation.examples import DealtExamples, Examples, Held
from fedalign.federation.fresh import fresh
from fedalign.federation.loading import loaded
from fedalign.federation.start import Start, lenient_start, start_of
from fedalign.messages.codec import Codec
from fedalign.messages.private import Private
from fedalign.models import takers
from fedalign.network.constants import digest
from fedalign.network.device import device_of
from fedalign.network.network import Network
from fedalign.settings.client_contracts import ChecksExamples, ClientAlgorithm
from fedalign.settings.common import private_of
from fedalign.settings.config import Config, from_run_config
from fedalign.settings.contracts import HasParts, HasSpec, Source
from fedalign.settings.registry import traits

PLACE = {"partition-id", "num-partitions"}  # of a client, in its node's config


@dataclass(frozen=True, eq=False)
class Federation:
    """The data, the network and the client algorithm of a run, each made when first used.

    Attributes:
        config: the run's configuration.
        given: the examples, where they have been read already; None: the data set of `config`,
            dealt by its partitioner.
        known: what every example looks like, where that is known without the data.
    """

    config: Config
    given: Examples | None = None
    known: Spec | None = None

    @cached_property
    def examples(self) -> Examples:
        """The training set, and who has which of its examples."""
        return self.given or DealtExamples(self.config, self._load("train"))

    @property
    def train(self) -> Dataset:
        """The training set, on the device."""
        return self.examples.data

    @cached_property
    def reference(self) -> Dataset | None:
        """The training set where the server has one; None where only the nodes have data.

        `InputError` if the server is to keep a share of it then.
        """
        if self._has("train"):
            return self.train
        if share := self.config.evaluation.server_share:
            raise InputError(
                f"evaluation.server_share: {share:g}, but the server has no training set: the data "
                "are at the nodes only"
            )
        return None

    @cached_property
    def test(self) -> Dataset | None:
        """The official test set, if there is one; only the server uses it."""
        return self._load("test") if self._has("test") else None

    @cached_property
    def source(self) -> Source:
        """Where the data come from."""
        built: Source = self.config.data.build()
        return built

    @cached_property
    def spec(self) -> Spec:
        """What every example looks like; some sources know it without reading any."""
        if self.known is not None:
            return self.known
        if self.given is None and isinstance(self.source, HasSpec):
            spec, classes = self.source.spec(), self.config.data.options.get("classes")
            return spec if classes is None else spec_of(spec, classes)
        return self.train.spec

    def held(self, partition: int, num_clients: int) -> Held:
        """Return the examples of one of `num_clients` clients."""
        return self.examples.held(partition, num_clients)

    @property
    def of_server(self) -> np.ndarray:
        """The rows that the server keeps to choose models by; none at a node with its own data."""
        examples = self.examples
        return examples.of_server if isinstance(examples, DealtExamples) else np.arange(0)

    def trained_in(self, server_round: int, partition: int, num_clients: int) -> np.ndarray:
        """Return the rows that a client trains on in a round, ascending."""
        rows = self.held(partition, num_clients).trained
        count = self.algorithms.most_examples(partition)
        return fresh(rows, count, self.config.seed, partition, server_round)

    def num_trained(self, partition: int, num_clients: int) -> int:
        """Return the number of examples that a client trains on in each round."""
        rows = self.held(partition, num_clients).trained
        return min(len(rows), self.algorithms.most_examples(partition) or len(rows))

    def shards(self, num_clients: int) -> list[np.ndarray]:
        """Return the examples that each client trains on: the same on every machine."""
        return [self.held(i, num_clients).trained for i in range(num_clients)]

    def holdouts(self, num_clients: int) -> list[np.ndarray]:
        """Return the examples that each client holds out to test on; with `shards`, all it owns."""
        every = [self.held(i, num_clients) for i in range(num_clients)]
        return [own.trained[:0] if own.held_out is None else own.held_out for own in every]

    @cached_property
    def network(self) -> Network:
        """The network, initialised from the run's seed."""
        config, module = self.config, self.start.module
        place = f"model: {config.model.name!r}{takers(self.spec)}"
        with named(place):
            try:
                where = device_of(config), config.precision
                features = traits("clients", config.client.name).uses_features
                network = Network(module, self.spec, *where, features)
                network.traits.check_logits(self.spec.classes)
            except TypeError as error:
                raise InputError(f"{place}: {shortened(str(error))}") from error
        return network

    @cached_property
    def start(self) -> Start:
        """What the run starts from; a node need not have its weights."""
        return lenient_start(self.config, self.spec)

    @property
    def first(self) -> ArrayRecord:
        """The run's first weights; `InputError` if their file is missing."""
        if self.start.flaw:
            raise InputError(self.start.flaw)
        if self.config.init == "own" and self.start.file and not self.start.is_drawn:
            same = f"all clients would start from {self.start.file}, of which nothing starts anew"
            raise InputError(f"init: 'own' is not allowed: {same}")
        return self.network.initial

    @cached_property
    def constants(self) -> str:
        """A digest of what never trains, which server and clients must share; "" if all trains."""
        return digest(self.network.module)

    @property
    def num_constants(self) -> int:
        """The number of parameters that never train."""
        return sum(p.numel() for p in self.network.module.parameters() if not p.requires_grad)

    def module(self, *stream: int | str, filled: bool = True) -> torch.nn.Module:
        """Return a new module with the run's first weights, or those of a stream, as a client's.

        Without those of a file, unless it is `filled`.
        """
        return start_of(self.config, self.spec, *stream, filled=filled).module

    def own_start(self, partition: int) -> torch.Tensor:
        """Return one client's first weights `(F,)`, where each client has its own."""
        return self.network.layout.flatten(self.module(partition)).to(self.network.device)

    @property
    def codec(self) -> Codec:
        """How models travel."""
        return Codec(self.network.layout, self.config.wire == "float16", self.private)

    @cached_property
    def private(self) -> Private | None:
        """The tensors that clients keep to themselves; None if they share all of them."""
        patterns = private_of(self.config.client)
        try:
            return Private.of(patterns, self.network.layout)
        except ValueError as error:
            raise InputError(f"client.private: {error}") from None

    @cached_property
    def algorithms(self) -> Algorithms:
        """The clients' algorithms."""
        return Algorithms(self.config)

    def client_of(self, partition: int) -> ClientAlgorithm:
        """Return the algorithm of one client."""
        return self.algorithms.of(partition)

    def check_clients(self) -> None:
        """Raise `InputError` for options of clients that are not for examples like these."""
        for client in self.algorithms.different:
            if isinstance(client, ChecksExamples):
                client.check_examples(self.spec)

    def check_testers(self, tests: Collection[int]) -> None:
        """Raise `InputError` if clients cannot evaluate; `tests` are their numbers of examples."""
        if self.config.evaluation.finetune_epochs:
            self.algorithms.tuner(0)
        if not any(tests):
            raise InputError(
                f"evaluation.holdout: {self.config.evaluation.holdout:g} of the examples of a "
                "client is less than one for every client, so nobody could evaluate"
            )

    def _has(self, part: Part) -> bool:
        return self.source.has(part) if isinstance(self.source, HasParts) else True

    def _load(self, part: Part) -> Dataset:
        data = self.config.data
        found = loaded(self.source, part, data.name, data.options.get("classes"))
        return found.to(device_of(self.config))


_federations: dict[tuple[tuple[str, UserConfigValue], ...], Federation] = {}  # one at most


def federation_of(run_config: Mapping[str, UserConfigValue]) -> Federation:
    """Return the federation of a Flower run config; a process keeps the last one."""
    key = tuple(sorted(run_config.items()))
    return _federations.get(key) or _keep(key, Federation(from_run_config(run_config)))


def adopt(run_config: Mapping[str, UserConfigValue], shared: Mapping[str, Any]) -> Federation:
    """Return the federation of a run config with a training set that is in memory already.

    `federation_of` returns the same one from here on, so that this process reads no data.

    Args:
        run_config: Flower's.
        shared: what `Dataset.to_numpy` returned in another process; its arrays are not copied.
    """
    key, config = tuple(sorted(run_config.items())), from_run_config(run_config)
    train = Dataset.from_numpy(shared).to(device_of(config))
    return _keep(key, Federation(config, DealtExamples(config, train)))


def forget() -> None:
    """Let go of the federation that this process keeps, so that the next one is made anew."""
    _federations.clear()


def _keep(key: tuple[tuple[str, UserConfigValue], ...], federation: Federation) -> Federation:
    forget()
    _federations[key] = federation
    return federation
