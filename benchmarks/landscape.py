"""Measure the cost of the landscape: stacked against single mixes, and as a share of a round.

    python benchmarks/landscape.py mixes
    python benchmarks/landscape.py round --rounds 6

`mixes`: four lines of 11 points between 8 models, 1,000 test images, one thread; both ways take
turns. `round`: W1 of `workloads.py` without a landscape, and with the default one (global model,
old to new global model, 3 pairs of clients, 11 points), during the next round's training or not.
The machine should be idle.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from statistics import median
from typing import Any

import torch
from measuring import Cost, measure
from workloads import split

from fedalign.federation.federation import Federation
from fedalign.landscape.evaluator import Evaluator
from fedalign.landscape.paths import Path, grid
from fedalign.network.device import torch_threads
from fedalign.settings.config import read

MODELS: dict[str, dict[str, Any]] = {
    "mlp": {"model": "mlp"},
    "mlp, 3 layers": {"model": "mlp", "model.depth": 3},
    "cnn": {"model": "cnn"},
    "lenet5": {"model": "lenet5"},
}
LINES = ("ab", "cd", "ef", "gh")


def mixes(repeats: int) -> None:
    """Print for each model the milliseconds of a landscape in both ways, and their ratio."""
    print("| model | one by one ms | at once ms | times faster |\n|---|---|---|---|")
    for name, settings in MODELS.items():
        config = read(None, settings | {"data": "workloads:Blobs", "evaluation.threads": 1})
        federation = Federation(config)
        network = federation.network
        start, draw = network.layout.to_vector(network.initial), torch.Generator().manual_seed(0)
        models = {
            letter: start + 0.02 * torch.randn(len(start), generator=draw)
            for letter in "".join(LINES)
        }
        paths = [Path(line, line[0], line[1], grid(11)) for line in LINES]
        assert federation.test is not None
        look = Evaluator(network, federation.test, federation.train, config.evaluation)
        taken: dict[bool, list[float]] = {True: [], False: []}
        together = network.mixes
        with torch_threads(1):
            for number in range(2 * repeats + 2):
                at_once = number % 2 == 0
                network.__dict__["mixes"] = together if at_once else None
                began = time.perf_counter()
                look.curves(models, paths)
                if number > 1:  # the first of each way warms up
                    taken[at_once].append(1e3 * (time.perf_counter() - began))
        one, many = median(taken[False]), median(taken[True])
        note = f"{one / many:.2f}" if together else "not tried"
        print(f"| {name} | {one:.0f} | {many:.0f} | {note} |")


def of_a_round(engine: str, rounds: int, repeats: int, more: list[str]) -> None:
    """Print wall and CPU seconds of a round with and without a landscape."""
    ways = {
        "no landscape": ["evaluation.alphas=0"],
        "landscape": ["evaluation.alphas=11"],
        "landscape, not overlapped": ["evaluation.alphas=11", "evaluation.overlap=false"],
    }
    found: dict[str, list[Cost]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, settings in ways.items():
            found[way].append(measure("W1", engine, rounds, 1, [*settings, *more]))
    print(
        f"| {engine} | wall s a round | of none | CPU s a round | of none |\n|---|---|---|---|---|"
    )
    wall, cpu = (
        {w: median(getattr(c, key) for c in found[w]) for w in ways} for key in ("wall", "cpu")
    )
    for way in ways:
        cells = (f"{own[way]:.2f} | {own[way] / own['no landscape']:.2f}" for own in (wall, cpu))
        print(f"| {way} | {' | '.join(cells)} |")


def main() -> None:
    """Measure mixes or rounds."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n")[0], epilog="KEY=VALUE, anywhere: settings of W1"
    )
    parser.add_argument("what", choices=["mixes", "round"])
    parser.add_argument("--engine", default="inline")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--repeats", type=int, default=3)
    more, others = split(sys.argv[1:])
    given = parser.parse_args(others)
    print(f"{given.repeats} repeats; {os.cpu_count()} cores, Python {platform.python_version()}, "
          f"torch {torch.__version__}\n")  # fmt: skip
    if given.what == "mixes":
        mixes(given.repeats)
    else:
        of_a_round(given.engine, given.rounds, given.repeats, more)


if __name__ == "__main__":
    main()
