"""What a round costs the host alone, without a GPU: what a GPU would replay costs nothing here.

    python benchmarks/host_time.py W2
    python benchmarks/host_time.py W2 strategy=fedpnu --rounds 300 --functions 30

Steps and passes that a GPU would capture run once, on the CPU, and never again; so the losses mean
nothing. All clients of a round are one stack, and a small MLP is the model. CPU time of the process
is counted, which neighbours on the machine disturb less than wall time; compare two checkouts in
turn (A B A B). What is not counted: launches themselves, and waits for the GPU.
"""

from __future__ import annotations

import argparse
import cProfile
import platform
import pstats
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from statistics import quantiles
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from workloads import WORKLOADS, settings_of, split

from fedalign.network.graphs import Graph, Graphs, Work
from fedalign.network.network import Network
from fedalign.network.scorer import Scorer
from fedalign.server.rounds import RoundLoop
from fedalign.settings.config import read
from fedalign.settings.registry import HOME
from fedalign.settings.sources import parse_overrides
from fedalign.simulation import FlowerApp, simulate

WARM = 10
"""Rounds that are not counted: until whole rounds are captured and checked."""
SMALL = {
    "model": "mlp", "model.depth": 1, "model.width": 2, "data.side": 8, "data.tests": 100,
    "device": "cpu", "evaluation.overlap": False,
}  # fmt: skip


class Nothing:
    """A captured piece of work whose replay costs nothing."""

    def replay(self) -> None:
        """Do nothing."""


class Idle(Graphs):
    """Captures work by doing it once."""

    def capture(self, work: Work, state: Sequence[Tensor]) -> Graph:  # noqa: ARG002
        """Do the work, and return a graph that does nothing."""
        work()
        return Nothing()

    def check(self, graph: Graph, work: Work, state: Sequence[Tensor]) -> bool:  # noqa: ARG002
        """Return that it is right."""
        return True


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """Run the body with networks and scorers that capture work, on a CPU."""
    begin = Scorer.__init__

    def capturing(scorer: Scorer, *args: Any, **kwargs: Any) -> None:
        begin(scorer, *args, **kwargs)
        scorer.graphs = Idle()

    def graphs(network: Network) -> Graphs | None:
        own: Graphs | None = network.__dict__.setdefault("graphs", Idle())
        return own if network.stacked else None

    with (
        patch.object(Network, "graphs", property(graphs)),
        patch.object(Scorer, "__init__", capturing),
    ):
        yield


def milliseconds(
    settings: dict[str, Any], rounds: int, profile: cProfile.Profile | None = None
) -> list[float]:
    """Return the CPU milliseconds of each round; `profile` is enabled meanwhile."""
    marks, sample = list[float](), RoundLoop.sample

    def noted(loop: RoundLoop, number: int, present: Any) -> Any:
        marks.append(time.process_time())
        if profile and number == WARM + 1:
            profile.enable()
        if profile and number == WARM + rounds + 1:
            profile.disable()
        return sample(loop, number, present)

    with (
        tempfile.TemporaryDirectory() as out,
        as_on_a_gpu(),
        patch.object(RoundLoop, "sample", noted),
    ):
        own = {"out": out, "rounds": WARM + rounds + 1}
        config = read(None, settings | own | {"simulation.stack": settings["clients_per_round"]})
        app = FlowerApp(HOME, "fedalign.server_app:app", "fedalign.client_app:app", {})
        simulate(app, config.num_clients, config.run_config())
    return [1e3 * (after - before) for before, after in pairwise(marks[WARM:])]


def main(words: Sequence[str]) -> None:
    """Print the CPU time of a round, and the functions that take it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("workload", choices=WORKLOADS)
    parser.add_argument("--rounds", type=int, default=150)
    parser.add_argument("--functions", type=int, help="so many that take most time")
    more, others = split(words)
    given = parser.parse_args(others)
    profile = cProfile.Profile() if given.functions else None
    settings = settings_of(given.workload, [f"{key}={value}" for key, value in SMALL.items()])
    found = milliseconds(settings | parse_overrides(more), given.rounds, profile)
    lower, middle, upper = quantiles(found, n=4)
    how = "under cProfile" if profile else "undisturbed"
    print(f"{given.workload} {' '.join(more)}: {middle:.2f} ms of CPU time a round "
          f"({lower:.2f} to {upper:.2f}, least {min(found):.2f}) in {len(found)} rounds, {how}; "
          f"Python {platform.python_version()}, torch {torch.__version__}")  # fmt: skip
    if profile:
        pstats.Stats(profile).sort_stats("tottime").print_stats(given.functions)


if __name__ == "__main__":
    main(sys.argv[1:])
