"""Run two rounds again and again, and find what differs: a part that draws from nobody's stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import NamedTuple

import numpy as np
from flwr.app import ArrayRecord

from fedalign.client_app import app
from fedalign.federation.federation import federation_of, forget
from fedalign.network.device import torch_threads
from fedalign.runs.tables import COSTS
from fedalign.server.callbacks import Callback, CallbackRunner
from fedalign.server.round import Round
from fedalign.server.rounds import RoundLoop
from fedalign.server.setup import measures, nodes_of, round_settings
from fedalign.server.strategies import strategy_of
from fedalign.settings.config import Config
from fedalign.simulation.inline import InlineGrid
from fedalign.training.stacks import choose_stack

ROUNDS = 2
ROUNDING = 1e-3  # how far stacked clients may be from the same trained one by one, relative
FEW = 4  # clients that are stacked for comparison where a run stacks none

Arrays = dict[str, np.ndarray]


class Seen(NamedTuple):
    """A round as it is compared.

    Attributes:
        clients: the models by partition.
        model: the new global model.
        numbers: all that was measured.
    """

    clients: dict[int, Arrays]
    model: Arrays
    numbers: dict[str, float]


class Recorder(Callback):
    """A callback that keeps all models and numbers of each round."""

    def __init__(self) -> None:
        self.rounds: list[Seen] = []

    def models_wanted(self, number: int, partitions: Sequence[int]) -> set[int]:  # noqa: ARG002
        """Return all partitions."""
        return set(partitions)

    def on_round(self, outcome: Round) -> None:
        """Keep the round."""
        clients = {number: _arrays(model) for number, model in outcome.clients.items()}
        numbers = dict(outcome.metrics)
        for partition, metrics in outcome.evaluations.items():
            numbers |= {f"{name} of client {partition}": v for name, v in metrics.items()}
        self.rounds.append(Seen(clients, _arrays(outcome.after), numbers))


def record(config: Config, stack: int | None = None) -> list[Seen]:
    """Return the first rounds of a run, in this process; `stack` may replace the run's own."""
    forget()
    federation, recorder = federation_of(config.run_config()), Recorder()
    grid = InlineGrid(app, config.num_clients, config.run_config())
    nodes = nodes_of(grid, federation)
    size = choose_stack(federation, config.sampled).size if stack is None else stack
    settings = round_settings(federation, config.model_copy(update={"rounds": ROUNDS}), size)
    callbacks = CallbackRunner([*measures(federation, nodes), recorder])
    strategy = strategy_of(federation)
    loop = RoundLoop(strategy, grid, nodes, settings, federation.codec, callbacks)
    with torch_threads(1):
        loop.run(federation.first)
    return recorder.rounds


def twice(config: Config) -> Iterator[tuple[str, str, bool]]:
    """Yield a heading, what was found, and whether it is as it should be, for each comparison."""
    first = record(config)
    yield "again", *_told(difference(first, record(config)), "the same bits")
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        other = pool.submit(record, config).result()
    yield "process", *_told(difference(first, other), "the same bits in another process")
    network, clients = federation_of(config.run_config()).network, config.sampled
    if network.stacked is None or clients == 1:
        yield "stack", network.stacking.line or "there is one client", True
        return
    size = choose_stack(federation_of(config.run_config()), clients).size
    if size > 1:
        found = difference(first, record(config, 1), ROUNDING)
    else:
        size = min(FEW, clients)
        found = difference(first, record(config, size), ROUNDING)
    yield "stack", *_told(found, f"{size} clients together as one by one, to rounding")


def difference(one: Sequence[Seen], other: Sequence[Seen], allowed: float = 0.0) -> str:
    """Return the first thing in which two recordings differ; "" if they are the same.

    Models may differ by `allowed` of their norm; numbers are compared if nothing may differ.
    """
    for number, (a, b) in enumerate(zip(one, other, strict=True), 1):
        if a.clients.keys() != b.clients.keys():
            parts = " and ".join(str(sorted(seen.clients)) for seen in (a, b))
            return f"round {number}: clients {parts} took part"
        models = [(f"client {k}", a.clients[k], b.clients[k]) for k in sorted(a.clients)]
        for who, ours, theirs in [*models, ("the new model", a.model, b.model)]:
            if found := _of_models(ours, theirs, allowed):
                return f"round {number}: {who}: {found}"
        if not allowed and (found := _of_numbers(a.numbers, b.numbers)):
            return f"round {number}: {found}"
    return ""


def _of_models(ours: Arrays, theirs: Arrays, allowed: float) -> str:
    for name, array in ours.items():
        far = array.astype(float) - theirs[name]
        if not np.linalg.norm(far) <= allowed * np.linalg.norm(array.astype(float)) + allowed:
            return f"{name!r} differs, by up to {np.abs(far).max():.3g}"
    return ""


def _of_numbers(ours: Mapping[str, float], theirs: Mapping[str, float]) -> str:
    for name in sorted((ours.keys() | theirs.keys()) - set(COSTS)):
        a, b = ours.get(name), theirs.get(name)
        if a != b and not (a != a and b != b):  # NaN is like NaN
            return f"{name!r} is {a} and {b}"
    return ""


def _told(found: str, same: str) -> tuple[str, bool]:
    return (f"DIFFERS in {found}", False) if found else (same, True)


def _arrays(model: ArrayRecord) -> Arrays:
    return {name: array.numpy() for name, array in model.items()}
