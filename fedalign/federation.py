"""What server and clients derive from a configuration alone, so that it need not be sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import torch
from flwr.serverapp.strategy import Strategy

from fedalign.config import Config, Scalar, from_run_config
from fedalign.data import Dataset
from fedalign.network import Network, pick_device
from fedalign.registry import FLOWER_SAMPLING
from fedalign.rng import rng


class Federation:
    """The data, who owns which of it, and the network: made on first use, once a process."""

    def __init__(self, config: Config):
        self.config = config
        self._shards: dict[int, list[np.ndarray]] = {}

    @cached_property
    def train(self) -> Dataset:
        """The training set, on the device."""
        return self._load("train")

    @cached_property
    def test(self) -> Dataset:
        """The official test set; only the server asks for it."""
        return self._load("test")

    @cached_property
    def network(self) -> Network:
        """The network, initialised from the run's seed."""
        config, shape = self.config, self.train.images.shape[1:]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng(config.seed, "init").integers(2**31)))
            module = config.model.build(shape=tuple(shape), classes=self.train.classes)
        return Network(module, self.train, pick_device(config.device))

    @cached_property
    def client(self) -> Any:
        """The client algorithm."""
        return self.config.client.build()

    def strategy(self) -> Strategy:
        """Return a fresh strategy, for a server that draws the clients itself."""
        built: Strategy = self.config.strategy.build(
            layout=self.network.layout, seed=self.config.seed, **FLOWER_SAMPLING
        )
        return built

    def shards(self, num_clients: int) -> list[np.ndarray]:
        """Return who owns which examples: the same on every machine, from the seed."""
        if num_clients not in self._shards:
            labels, stream = self.train.labels.cpu().numpy(), rng(self.config.seed, "partition")
            partitioner = self.config.partition.build()
            self._shards[num_clients] = partitioner.split(labels, num_clients, stream)
        return self._shards[num_clients]

    def _load(self, part: str) -> Dataset:
        device = pick_device(self.config.device)
        data: Dataset = self.config.data.build().load(part)
        return replace(data, images=data.images.to(device), labels=data.labels.to(device))


def federation_of(run_config: Mapping[str, Scalar]) -> Federation:
    """Return the federation of a Flower run config; a process that serves many clients keeps it."""
    return _federation(tuple(sorted(run_config.items())))


@lru_cache(maxsize=1)
def _federation(items: tuple[tuple[str, Scalar], ...]) -> Federation:
    return Federation(from_run_config(dict(items)))
