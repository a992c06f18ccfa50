"""Measure the cost of a round on each engine, against a plain PyTorch loop over the same clients.

    python benchmarks/workloads.py W2
    python benchmarks/workloads.py W1 --engines plain inline ray --rounds 4

W1 compute: 100 clients, Dirichlet 0.3, 10 per round, batch 50, CNN of 878,538 parameters.
W2 overhead: 1,000 clients of 50 examples, 100 per round, batch 10, MLP 784-64-10.
W3 scale: 10,000 clients of 20 examples, 1,000 per round, batch 10, LeNet-5.

SGD with learning rate 0.05 and momentum 0.9, one local epoch, one evaluation on 10,000 test
examples per round. Engines take turns (A B A B), each in a fresh process. Wall: median of the
rounds after the first. CPU: time of all processes of a run from the end of the first round to the
end of the last, per round. Memory: peak of their proportional set sizes. The machine should be
idle.

Any setting may follow: simulation.stack=1 simulation.partial_aggregation=false.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import psutil
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedalign.data import Dataset
from fedalign.federation.federation import Federation
from fedalign.rng import rng
from fedalign.settings.config import read

HERE = Path(__file__).parent
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
}  # fmt: skip


@dataclass(frozen=True)
class Blobs:
    """Synthetic, learnable data: noise around ten random images, the same on every machine."""

    size: int = 50_000
    channels: int = 1
    side: int = 28

    def load(self, part: str) -> Dataset:
        """Return one part; the test part has 10,000 examples."""
        size = self.size if part == "train" else 10_000
        shape = (self.channels, self.side, self.side)
        centres = rng(0, "centres").integers(64, 192, (10, *shape))
        stream = rng(0, part)
        labels = stream.integers(0, 10, size)
        images = centres[labels] + stream.integers(-60, 60, (size, *shape), dtype="i2")
        mean, std = (0.5,) * self.channels, (0.5,) * self.channels
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


def plain(settings: dict[str, Any], rounds: int, threads: int, out: Path) -> None:
    """Write the seconds of each round of a hand-written loop of federated averaging."""
    torch.set_num_threads(threads)
    config = read(None, COMMON | settings)
    federation = Federation(config)
    train, test, batch = federation.train, federation.test, settings["client.batch_size"]
    shards = federation.shards(config.num_clients)
    model = federation.network.module.to(memory_format=torch.contiguous_format)
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    for number in range(1, rounds + 1):
        started = time.perf_counter()
        drawn = rng(0, "sample", number).choice(config.num_clients, config.clients_per_round, False)
        total = sum(len(shards[client]) for client in drawn)
        average = {key: torch.zeros_like(value) for key, value in weights.items()}
        for client in drawn:
            model.load_state_dict(weights)
            order = rng(0, "batches", number, int(client)).permutation(shards[client])
            _train(model, train, torch.from_numpy(order), batch)
            for key, value in model.state_dict().items():
                average[key] += value * (len(shards[client]) / total)
        weights = average
        model.load_state_dict(weights)
        accuracy = _accuracy(model, test)
        with out.open("a") as file:
            print(time.perf_counter() - started, file=file)
    print(f"plain: accuracy {accuracy:.3f}", file=sys.stderr)


def _train(model: nn.Module, data: Dataset, order: Tensor, batch: int) -> None:
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for rows in torch.split(order, batch):
        optimizer.zero_grad()
        loss = functional.cross_entropy(model(_floats(data.images[rows])), data.labels[rows])
        loss.backward()
        optimizer.step()


@torch.no_grad()
def _accuracy(model: nn.Module, data: Dataset) -> float:
    model.eval()
    batches = zip(data.images.split(500), data.labels.split(500), strict=True)
    hits = [(model(_floats(images)).argmax(1) == labels).sum() for images, labels in batches]
    return int(sum(hits)) / len(data)


def _floats(images: Tensor) -> Tensor:
    return (images.float() / 255 - 0.5) / 0.5


@dataclass(frozen=True)
class Cost:
    """The cost of a run: seconds to the end of the first round, then per round, and peak MB."""

    first: float
    wall: float
    cpu: float
    memory: float


def measure(name: str, engine: str, rounds: int, threads: int, more: list[str]) -> Cost:
    """Return the cost of one run in fresh processes."""
    with tempfile.TemporaryDirectory() as out:
        if engine == "plain":
            log = Path(out, "seconds")
            words = [name, "--threads", str(threads), "--child", str(rounds), str(log)]
            return _watch([sys.executable, __file__, *words], lambda: _lines(log), rounds)
        given = COMMON | WORKLOADS[name] | {"rounds": rounds, "simulation.backend": engine}
        yaml = Path(out) / "empty.yaml"
        yaml.touch()
        code = "from fedalign.cli import main; main()"
        words = [*(f"{key}={value}" for key, value in given.items()), *more, "--out", out]
        command = [sys.executable, "-c", code, "run", str(yaml), *words]
        return _watch(command, lambda: _metrics(Path(out)), rounds)


def _lines(path: Path) -> list[float]:
    return [float(line) for line in path.read_text().split()] if path.exists() else []


def _metrics(out: Path) -> list[float]:
    for path in out.glob("*/metrics.csv"):
        try:
            return list(pd.read_csv(path)["seconds"])
        except (pd.errors.EmptyDataError, pd.errors.ParserError, KeyError):
            break
    return []


def _watch(command: list[str], finished: Callable[[], list[float]], rounds: int) -> Cost:
    """Return the cost of a command; `finished` returns the seconds of each finished round."""
    started = time.perf_counter()
    process = psutil.Popen(
        command,
        stdout=subprocess.DEVNULL,
        cwd=HERE,
        env={**os.environ, "PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}"},
    )
    used: dict[tuple[int, float], float] = {}
    seconds: list[float] = []
    first = at_first = at_last = memory = looked = 0.0
    while process.poll() is None and len(seconds) < rounds:
        time.sleep(0.02)
        seconds = finished()
        family = _family(process)
        for one in family:
            with suppress(psutil.Error):
                times = one.cpu_times()
                used[one.pid, one.create_time()] = times.user + times.system
        at_last = sum(used.values())
        if seconds and not first:
            first, at_first = time.perf_counter() - started, at_last
        if time.perf_counter() - looked > 0.5 or len(seconds) == rounds:
            looked, memory = time.perf_counter(), max(memory, sum(map(_memory, family)))
    if process.wait() or len(seconds) < rounds:
        raise SystemExit(f"{command} failed")
    return Cost(first, median(seconds[1:]), (at_last - at_first) / (rounds - 1), memory)


def _family(process: psutil.Popen) -> list[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return [process, *process.children(recursive=True)]
    return []


def _memory(process: psutil.Process) -> float:
    with suppress(psutil.Error):
        return float(process.memory_full_info().pss) / 1e6
    return 0.0


def report() -> None:
    """Measure the engines in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("more", nargs="*", metavar="KEY=VALUE", help="settings of our engines")
    parser.add_argument("--engines", nargs="+", default=["plain", "inline", "ray", "flower"])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of the plain loop")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        rounds, out = given.child
        plain(WORKLOADS[given.workload], int(rounds), given.threads, Path(out))
        return
    costs: dict[str, list[Cost]] = {engine: [] for engine in given.engines}
    for _ in range(given.repeats):
        for engine in given.engines:
            costs[engine].append(
                measure(given.workload, engine, given.rounds, given.threads, given.more)
            )
    print(f"{given.workload} {' '.join(given.more)}, {given.rounds} rounds, {given.repeats} "
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
