"""Measure the cost of a round on each engine, against a plain PyTorch loop over the same clients.

    python benchmarks/workloads.py W2
    python benchmarks/workloads.py W1 --engines plain inline ray --rounds 4

W1 compute: 100 clients, Dirichlet 0.3, 10 per round, batch 50, CNN of 878,538 parameters.
W2 overhead: 1,000 clients of 50 examples, 100 per round, batch 10, MLP 784-64-10.
W3 scale: 10,000 clients of 20 examples, 1,000 per round, batch 10, LeNet-5.
CIFAR: 1,000 clients of 50 examples, 50 per round, batch 10, a CNN of 1,626,442 parameters with
dropout, learning rate 0.1 without momentum: the shape of pfl-research's CIFAR-10 benchmark.

SGD with learning rate 0.05 and momentum 0.9, one local epoch, one evaluation on 10,000 test
examples per round. Engines take turns (A B A B), each in a fresh process. Wall: median of the
rounds after the first. CPU: time of all processes of a run from the end of the first round to the
end of the last, per round. Memory: peak of their proportional set sizes. The machine should be
idle.

Settings may stand anywhere: simulation.stack=1 simulation.partial_aggregation=false. Those that
say what is trained, and `device`, hold for the plain loop too.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from statistics import median
from typing import Any

import torch
from torch import nn

from fedalign.data import Dataset
from fedalign.rng import rng
from fedalign.settings.sources import parse_overrides

COMMON: dict[str, Any] = {
    "strategy": "fedavg",
    "client.lr": 0.05,
    "client.momentum": 0.9,
    "client.weight_decay": 0,
    "evaluation.alphas": 0,
}
WORKLOADS: dict[str, dict[str, Any]] = {
    "W1": {
        "data": "workloads:Blobs", "data.size": 50_000, "data.channels": 3, "data.side": 32,
        "num_clients": 100, "clients_per_round": 10, "partition": "dirichlet",
        "partition.alpha": 0.3, "client.batch_size": 50, "model": "workloads:wide_cnn",
    },
    "W2": {
        "data": "workloads:Blobs", "data.size": 50_000, "data.channels": 1, "data.side": 28,
        "num_clients": 1_000, "clients_per_round": 100, "partition": "iid",
        "client.batch_size": 10, "model": "mlp", "model.depth": 1, "model.width": 64,
    },
    "W3": {
        "data": "workloads:Blobs", "data.size": 200_000, "data.channels": 1, "data.side": 28,
        "num_clients": 10_000, "clients_per_round": 1_000, "partition": "iid",
        "client.batch_size": 10, "model": "lenet5",
    },
    "CIFAR": {
        "data": "workloads:Blobs", "data.size": 50_000, "data.channels": 3, "data.side": 32,
        "num_clients": 1_000, "clients_per_round": 50, "partition": "iid", "client.lr": 0.1,
        "client.momentum": 0, "client.batch_size": 10, "model": "workloads:dropout_cnn",
    },
}  # fmt: skip


@dataclass(frozen=True)
class Blobs:
    """Synthetic, learnable data: noise around ten random images, the same on every machine."""

    size: int = 50_000
    channels: int = 1
    side: int = 28
    tests: int = 10_000

    def load(self, part: str) -> Dataset:
        """Return one part, of `size` or `tests` examples."""
        size = self.size if part == "train" else self.tests
        return _blobs(size, (self.channels, self.side, self.side), part)


@lru_cache(maxsize=4)
def _blobs(size: int, shape: tuple[int, int, int], part: str) -> Dataset:
    """Return the examples of a part; a process with several runs makes them once."""
    centres = rng(0, "centres").integers(64, 192, (10, *shape))
    stream = rng(0, part)
    labels = stream.integers(0, 10, size)
    images = centres[labels] + stream.integers(-60, 60, (size, *shape), dtype="i2")
    mean, std = (0.5,) * shape[0], (0.5,) * shape[0]
    pixels = torch.from_numpy(images.clip(0, 255).astype("u1"))
    return Dataset(pixels, torch.from_numpy(labels), 10, mean, std, "synthetic blobs")


def wide_cnn(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Two 5x5 convolutions (32, 64) and two linear layers; 878,538 parameters on 3x32x32."""
    side = ((shape[1] - 4) // 2 - 4) // 2
    return nn.Sequential(
        nn.Conv2d(shape[0], 32, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(64 * side * side, 512), nn.ReLU(), nn.Linear(512, classes),
    )  # fmt: skip


def dropout_cnn(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Two 3x3 convolutions (32, 64), dropout, two linear layers; 1,626,442 parameters on 3x32x32.

    The layers of `simple_cnn` in pfl-research's benchmarks (Granqvist et al. 2024).
    """
    side = (shape[1] - 4) // 2
    return nn.Sequential(
        nn.Conv2d(shape[0], 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(),
        nn.MaxPool2d(2), nn.Dropout(0.25), nn.Flatten(),
        nn.Linear(64 * side * side, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, classes),
    )  # fmt: skip


def settings_of(name: str, more: Iterable[str] = ()) -> dict[str, Any]:
    """Return the settings of a workload, with words such as `device=cpu` over them."""
    return COMMON | WORKLOADS[name] | parse_overrides(more)


def split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the settings among the words of a command line, and the other words."""
    more = [word for word in words if "=" in word and not word.startswith("-")]
    return more, [word for word in words if word not in more]


def report(words: Sequence[str] | None = None) -> None:
    """Measure the engines in turn and print a table."""
    from measuring import Cost, measure  # which imports this file

    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], epilog="KEY=VALUE, anywhere: settings of the runs"
    )
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("--engines", nargs="+", default=["plain", "inline", "ray", "flower"])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of the plain loop")
    more, others = split(sys.argv[1:] if words is None else words)
    given = parser.parse_args(others)
    costs: dict[str, list[Cost]] = {engine: [] for engine in given.engines}
    for _ in range(given.repeats):
        for engine in given.engines:
            costs[engine].append(measure(given.workload, engine, given.rounds, given.threads, more))
    print(f"{given.workload} {' '.join(more)}, {given.rounds} rounds, {given.repeats} "
          f"repeats, plain loop on {given.threads} threads; {os.cpu_count()} cores, "
          f"Python {platform.python_version()}, torch {torch.__version__}")  # fmt: skip
    base = given.engines[0]
    titles = ["engine", "start to first round s"]
    for what in ("wall s a round", "CPU s a round", "peak MB"):
        titles += [what, f"of {base}"]
    print(f"\n| {' | '.join(titles)} |\n{'|---' * len(titles)}|")
    for engine in given.engines:
        cells = [f"{median(cost.first for cost in costs[engine]):.1f}"]
        for key, digits in (("wall", 3), ("cpu", 3), ("memory", 0)):
            own, other = (
                median(getattr(cost, key) for cost in costs[one]) for one in (engine, base)
            )
            cells += [f"{own:.{digits}f}", f"{own / other:.2f}"]
        print(f"| {engine} | {' | '.join(cells)} |")


if __name__ == "__main__":
    report()
