"""What server and clients derive from a configuration alone, so that it need not be sent."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from inspect import signature
from typing import Any

import numpy as np
import torch
from flwr.app import UserConfigValue

from fedalign.data import Dataset, Part, Spec
from fedalign.errors import InputError, named, shortened
from fedalign.federation.examples import DealtExamples, Examples, Held
from fedalign.messages.codec import Codec
from fedalign.messages.private import Private
from fedalign.models import refuse_tokens, takers
from fedalign.network.device import device_of
from fedalign.network.network import Network
from fedalign.seeding import seeded
from fedalign.settings.common import private_of
from fedalign.settings.config import Config, from_run_config
from fedalign.settings.contracts import ClientAlgorithm, HasParts, HasSpec, Source
from fedalign.settings.registry import load, traits

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
        """The training set where the server has one; None where only the nodes have data."""
        return self.train if self._has("train") else None

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
            return self.source.spec()
        return self.train.spec

    def held(self, partition: int, num_clients: int) -> Held:
        """Return the examples of one of `num_clients` clients."""
        return self.examples.held(partition, num_clients)

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
        config, module = self.config, self.module()
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

    def module(self, *client: int) -> torch.nn.Module:
        """Return a new module with the run's first weights, or those of one client."""
        config, spec, model = self.config, self.spec, self.config.model
        refuse_tokens(model.name, spec, signature(load("models", model.name)).parameters)
        given = {"classes": spec.classes, "vocabulary": spec.vocabulary}
        with seeded(config.seed, "init", *client):
            built: torch.nn.Module = model.build(shape=spec.shape, **given)
        return built

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
    def client(self) -> ClientAlgorithm:
        """The client algorithm."""
        built: ClientAlgorithm = self.config.client.build()
        return built

    @cached_property
    def tuner(self) -> ClientAlgorithm:
        """The client algorithm with the epochs of fine-tuning, `evaluation.finetune_epochs`."""
        part, epochs = self.config.client, self.config.evaluation.finetune_epochs
        if "epochs" not in part.options:
            raise InputError(
                f"evaluation.finetune_epochs: client algorithm {part.name!r} has no option 'epochs'"
            )
        built: ClientAlgorithm = replace(part, options={**part.options, "epochs": epochs}).build()
        return built

    def check_testers(self, tests: Collection[int]) -> None:
        """Raise `InputError` if clients cannot evaluate; `tests` are their numbers of examples."""
        if self.config.evaluation.finetune_epochs:
            self.tuner  # noqa: B018
        if not any(tests):
            raise InputError(
                f"evaluation.holdout: {self.config.evaluation.holdout:g} of the examples of a "
                "client is less than one for every client, so nobody could evaluate"
            )

    def _has(self, part: Part) -> bool:
        return self.source.has(part) if isinstance(self.source, HasParts) else True

    def _load(self, part: Part) -> Dataset:
        place = named(f"data set: {self.config.data.name!r}: load({part!r})")
        with place, seeded(0, "data", part):  # the same data for all seeds
            data = self.source.load(part)
        if not isinstance(data, Dataset):
            name, found = self.config.data.name, type(data).__name__
            raise InputError(f"data.name: {name!r}: load({part!r}) returned a {found}, no Dataset")
        return data.to(device_of(self.config))


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
