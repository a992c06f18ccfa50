"""What a round costs on each engine, beside a plain PyTorch loop over the same clients.

    python benchmarks/workloads.py W2
    python benchmarks/workloads.py W1 --engines plain inline ray --rounds 4

W1 compute: 100 clients, Dirichlet 0.3, 10 a round, batch 50, CNN of 878,538 parameters.
W2 overhead: 1,000 clients of 50 examples, 100 a round, batch 10, MLP 784-64-10.
W3 scale: 10,000 clients of 20 examples, 1,000 a round, batch 10, LeNet-5.

SGD 0.05 with momentum 0.9, one local epoch, one evaluation on 10,000 test examples a round. Engines
take turns (A B A B), each in a fresh process. Wall: median of the rounds after the first. CPU: that
of all processes of a run, less that of a run of one round, per round. Give the machine nothing else
to do.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import psutil
import torch
from torch import Tensor, nn
from torch.nn import functional

from fedalign.config import read
from fedalign.data import Dataset
from fedalign.federation import Federation
from fedalign.rng import rng

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
    """Noise around ten random images: synthetic, the same everywhere, learnable."""

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


def plain(settings: dict[str, Any], rounds: int, threads: int) -> list[float]:
    """Return the seconds of each round of federated averaging as one would write it by hand."""
    torch.set_num_threads(threads)
    config = read(None, COMMON | settings)
    federation = Federation(config)
    train, test, batch = federation.train, federation.test, settings["client.batch_size"]
    shards = federation.shards(config.num_clients)
    model = federation.network._module.to(memory_format=torch.contiguous_format)

    def floats(images: Tensor) -> Tensor:
        return (images.float() / 255 - 0.5) / 0.5

    weights = {key: value.clone() for key, value in model.state_dict().items()}
    seconds = []
    for number in range(1, rounds + 1):
        started = time.perf_counter()
        drawn = rng(0, "sample", number).choice(config.num_clients, config.clients_per_round, False)
        total = sum(len(shards[client]) for client in drawn)
        average = {key: torch.zeros_like(value) for key, value in weights.items()}
        for client in drawn:
            model.load_state_dict(weights)
            model.train()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
            order = torch.from_numpy(
                rng(0, "batches", number, int(client)).permutation(shards[client])
            )
            for rows in torch.split(order, batch):
                optimizer.zero_grad()
                loss = functional.cross_entropy(
                    model(floats(train.images[rows])), train.labels[rows]
                )
                loss.backward()
                optimizer.step()
            for key, value in model.state_dict().items():
                average[key] += value * (len(shards[client]) / total)
        weights = average
        model.load_state_dict(weights)
        model.eval()
        with torch.no_grad():
            hits = sum(
                int((model(floats(images)).argmax(1) == labels).sum())
                for images, labels in zip(
                    test.images.split(500), test.labels.split(500), strict=True
                )
            )
        seconds.append(time.perf_counter() - started)
    print(f"plain: accuracy {hits / len(test):.3f}", file=sys.stderr)
    return seconds


def measure(name: str, engine: str, rounds: int, threads: int) -> tuple[list[float], float]:
    """Return the seconds of each round and the CPU seconds of all processes."""
    with tempfile.TemporaryDirectory() as out:
        if engine == "plain":
            words = [name, "--threads", str(threads), "--child", str(rounds), out]
            cpu = _run([sys.executable, __file__, *words])
            return [float(line) for line in (Path(out) / "seconds").read_text().split()], cpu
        given = COMMON | WORKLOADS[name] | {"rounds": rounds, "simulation.backend": engine}
        yaml = Path(out) / "empty.yaml"
        yaml.touch()
        code = "from fedalign.cli import main; main()"
        words = [f"{key}={value}" for key, value in given.items()]
        cpu = _run([sys.executable, "-c", code, "run", str(yaml), *words, "--out", out])
        (metrics,) = Path(out).glob("*/metrics.csv")
        return pd.read_csv(metrics)["seconds"].tolist(), cpu


def _run(command: list[str]) -> float:
    """Return the CPU seconds of a command and of every process that it started."""
    process = psutil.Popen(
        command,
        stdout=subprocess.DEVNULL,
        cwd=HERE,
        env={**os.environ, "PYTHONPATH": f"{HERE.parent}{os.pathsep}{HERE}"},
    )
    used: dict[tuple[int, float], float] = {}
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            try:
                family = [process, *process.children(recursive=True)]
            except psutil.NoSuchProcess:
                return
            for one in family:
                try:
                    times = one.cpu_times()
                    used[one.pid, one.create_time()] = times.user + times.system
                except psutil.Error:
                    continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    over.set()
    watcher.join()
    if code:
        raise SystemExit(f"{command} failed")
    return sum(used.values())


def report() -> None:
    """Measure the engines in turn and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("--engines", nargs="+", default=["plain", "inline", "ray", "flower"])
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of the plain loop")
    parser.add_argument("--child", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        rounds, out = given.child
        seconds = plain(WORKLOADS[given.workload], int(rounds), given.threads)
        Path(out, "seconds").write_text("\n".join(map(str, seconds)))
        return
    wall: dict[str, list[float]] = {engine: [] for engine in given.engines}
    cpu: dict[str, list[float]] = {engine: [] for engine in given.engines}
    for _ in range(given.repeats):
        for engine in given.engines:
            _, first = measure(given.workload, engine, 1, given.threads)
            seconds, whole = measure(given.workload, engine, given.rounds, given.threads)
            wall[engine].append(median(seconds[1:]))
            cpu[engine].append((whole - first) / (given.rounds - 1))
    print(f"{given.workload}, {given.rounds} rounds, {given.repeats} repeats, plain loop on "
          f"{given.threads} threads; {os.cpu_count()} cores, Python {platform.python_version()}, "
          f"torch {torch.__version__}")  # fmt: skip
    base = given.engines[0]
    titles = ["engine", "wall s a round", f"of {base}", "CPU s a round", f"of {base}"]
    print(f"\n| {' | '.join(titles)} |\n{'|---' * len(titles)}|")
    for engine in given.engines:
        s, c = median(wall[engine]), median(cpu[engine])
        ratios = s / median(wall[base]), c / median(cpu[base])
        print(f"| {engine} | {s:.3f} | {ratios[0]:.2f} | {c:.3f} | {ratios[1]:.2f} |")


if __name__ == "__main__":
    report()
