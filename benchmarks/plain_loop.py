"""Federated averaging as a hand-written PyTorch loop without a framework.

    python benchmarks/plain_loop.py W2 seconds.txt 10 1 device=cpu

The arguments are a workload, a file that gets the seconds of each round, the number of rounds,
the number of torch threads, and settings. Data stay on the device, and a round reads one number
back from it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from workloads import settings_of

from fedalign.data import Dataset
from fedalign.federation.federation import Federation
from fedalign.network.device import autocast, pick_device
from fedalign.rng import rng
from fedalign.settings.config import Config, read


@dataclass(frozen=True)
class Orders:
    """Which examples each of a round's clients sees, in the order in which it sees them."""

    shards: list[np.ndarray]
    clients: int

    @classmethod
    def of(cls, federation: Federation) -> Orders:
        """Return those of a federation."""
        config = federation.config
        clients = config.clients_per_round or config.num_clients
        return cls(federation.shards(config.num_clients), clients)

    def of_round(self, number: int) -> list[np.ndarray]:
        """Return the examples of each client that is sampled in a round."""
        drawn = rng(0, "sample", number).choice(len(self.shards), self.clients, False)
        return [
            rng(0, "batches", number, int(client)).permutation(self.shards[client])
            for client in drawn
        ]


def initial(federation: Federation) -> nn.Module:
    """Return the network with its first weights, on the CPU."""
    spec = federation.spec
    torch.manual_seed(0)
    module: nn.Module = federation.config.model.build(shape=spec.shape, classes=spec.classes)
    return module


def rounds_of(config: Config) -> Iterator[tuple[float, float, nn.Module]]:
    """Yield the seconds of each round, the test accuracy after it, and the network."""
    federation, device = Federation(config), pick_device(config.device)
    train, test, orders = federation.train, federation.test, Orders.of(federation)
    assert test is not None
    model = initial(federation).to(device)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    for number in range(1, config.rounds + 1):
        started = time.perf_counter()
        drawn = orders.of_round(number)
        total = sum(map(len, drawn))
        average = {key: torch.zeros_like(value) for key, value in weights.items()}
        for order in drawn:
            model.load_state_dict(weights)
            _train(model, train, torch.from_numpy(order).to(device), config)
            for key, value in model.state_dict().items():
                average[key].add_(value, alpha=len(order) / total)
        weights = average
        model.load_state_dict(weights)
        accuracy = _accuracy(model, test, config)
        yield time.perf_counter() - started, accuracy, model


def _train(model: nn.Module, data: Dataset, order: Tensor, config: Config) -> None:
    model.train()
    options = config.client.options
    optimizer = torch.optim.SGD(model.parameters(), options["lr"], options["momentum"])
    for rows in torch.split(order, options["batch_size"]):
        optimizer.zero_grad()
        with autocast(order.device, config.precision == "bf16"):
            logits = model(floats(data.images[rows]))
        functional.cross_entropy(logits.float(), data.labels[rows]).backward()
        optimizer.step()


@torch.no_grad()
def _accuracy(model: nn.Module, data: Dataset, config: Config) -> float:
    model.eval()
    size = 2_000 if data.images.is_cuda else 500  # what is fast there
    hits = torch.zeros((), dtype=torch.int64, device=data.images.device)
    for images, labels in zip(data.images.split(size), data.labels.split(size), strict=True):
        with autocast(images.device, config.precision == "bf16"):
            hits += (model(floats(images)).argmax(1) == labels).sum()
    return int(hits) / len(data)


def floats(images: Tensor) -> Tensor:
    """Return images as the network takes them: between -1 and 1."""
    return (images.float() / 255 - 0.5) / 0.5


def main(name: str, out: str, rounds: str, threads: str, *more: str) -> None:
    """Write the seconds of each round to a file, as soon as it is over."""
    torch.set_num_threads(int(threads))
    config = read(None, settings_of(name, more) | {"rounds": int(rounds)})
    for seconds, accuracy, _ in rounds_of(config):
        with Path(out).open("a") as file:
            print(seconds, file=file)
        print(f"plain: accuracy {accuracy:.3f}", file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
