"""The ServerApp: config → data → model → strategy → rounds → run folder."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedalign.federation.federation import Federation, federation_of
from fedalign.files import reporting
from fedalign.messages.groups import GroupGrid
from fedalign.network.device import torch_threads
from fedalign.runs.checkpoint import Checkpoint, Checkpoints, resume
from fedalign.runs.folder import RunFolder
from fedalign.runs.lock import locked
from fedalign.runs.manifest import manifest
from fedalign.runs.paths import folder_of
from fedalign.runs.progress import Progress
from fedalign.server.callbacks import CallbackRunner
from fedalign.server.client_metrics import columns
from fedalign.server.client_states import states_of
from fedalign.server.measure import Measure
from fedalign.server.nodes import Nodes, SimulatedNodes
from fedalign.server.participation import LimpingRunError, Participation, suggestion
from fedalign.server.remote_nodes import RemoteNodes
from fedalign.server.round import RoundSettings
from fedalign.server.rounds import RoundLoop
from fedalign.server.strategies import strategy_of
from fedalign.settings.config import Config
from fedalign.settings.contracts import BoundsMetrics
from fedalign.trackers.tracking import Tracking
from fedalign.training.stacks import StackChoice, choose_stack

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RARELY = 50_000  # new objects, of which a message to a client has about ten
app = ServerApp()
log = logging.getLogger("fedalign")


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run a federation from the first round to the last, on whatever engine the grid belongs to."""
    federation = federation_of(context.run_config)
    nodes = nodes_of(grid, federation)
    clients = len(nodes.present())
    config = _config(federation, nodes)
    tracking = Tracking(config, lambda: _figures(config))
    strategy = strategy_of(federation, config.num_clients)
    measured, states = measures(federation, nodes), states_of(config, grid)
    with locked(folder_of(config)):
        resumed = resume(config, strategy, states)
        sampled = min(config.clients_per_round or clients, clients)
        stack = _stack(federation, grid, sampled, resumed)
        facts = manifest(config, federation, nodes, type(grid).__name__, stack)
        gc.freeze()  # some Flower strategies collect garbage at each reply; nothing so far is any
        seen = Participation.restored(resumed.participation) if resumed else Participation()
        folder = RunFolder(config, facts, resumed, seen)
        progress = _progress(config, folder, resumed)
        checkpoints = Checkpoints(config, strategy, states, stack.size, seen, resumed)
        tracking.resume(after=resumed.number if resumed else 0)
        callbacks = [*measured, folder, tracking, progress, checkpoints]
        on_cpu = federation.network.device.type == "cpu"
        runner = CallbackRunner(callbacks, config.evaluation.overlap, config.rounds, thread=on_cpu)
        client = federation.client
        loop = RoundLoop(
            strategy,
            grid,
            nodes,
            round_settings(federation, config, stack.size),
            federation.codec,
            runner,
            counts_known=True,
            bounds=client.metric_bounds if isinstance(client, BoundsMetrics) else None,
            participation=seen,
            states=states,
        )
        done, model = (
            (resumed.number, resumed.model) if resumed else (0, federation.network.initial)
        )
        # A second torch thread keeps spinning after each large operation; measuring has its own.
        with folder, tracking, checkpoints, progress, torch_threads(1), _rare_garbage():
            model = loop.run(model, first=done + 1)
            if not nodes.hold_own_data:  # at the end, so that no round waits for it
                _draw(federation, config, folder.path / "partition.png")
            folder.save(federation.network.layout.to_state(model))
    print(f"results in {folder.path}", flush=True)
    _say_who_took_part(seen, config, folder)


@contextmanager
def _rare_garbage() -> Iterator[None]:
    """Let Python look for garbage rarely, which took long in rounds of many clients."""
    before = gc.get_threshold()
    gc.set_threshold(RARELY, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _draw(federation: Federation, config: Config, file: Path) -> None:
    """Draw who has which examples."""
    from fedalign.report import partition  # matplotlib and SciPy take a second to import

    with reporting(file):
        partition.draw(federation, config.num_clients, file)


def _figures(config: Config) -> dict[str, Figure]:
    from fedalign.report import gallery, reading  # matplotlib takes a second to import

    return gallery.figures(*reading.read_runs([folder_of(config)]))


def _say_who_took_part(seen: Participation, config: Config, folder: RunFolder) -> None:
    """Log which clients were left out in a run that has finished.

    Raises:
        LimpingRunError: fewer clients than `min_participation` ever took part.
    """
    line, share = seen.line(), config.min_participation
    if seen.is_below(share):
        raise LimpingRunError(f"{folder.path}: {line}; {suggestion(share, config.sampled)}")
    if line:
        log.warning("%s", line)


def nodes_of(grid: Grid, federation: Federation) -> Nodes:
    """Return the federation's nodes; simulated ones hold what the partition gives them."""
    config = federation.config
    if isinstance(grid, GroupGrid):
        ids = grid.partitions()
        held = [federation.held(partition, len(ids)) for partition in ids]
        return SimulatedNodes(ids, [len(h.trained) for h in held], [len(h.tested) for h in held])
    spec, least = federation.spec.to_config(), config.min_available_nodes
    if type(grid).__name__ == "InMemoryGrid":  # Flower's own engine, which starts the nodes itself
        return RemoteNodes(grid, spec, None, least, config.timeout)

    def dealt(partition: int) -> tuple[int, int] | None:
        if federation.reference is None:
            return None
        held = federation.held(partition, config.num_clients)
        return len(held.trained), len(held.tested)

    return RemoteNodes(grid, spec, config.num_clients, least, config.timeout, dealt)


def _config(federation: Federation, nodes: Nodes) -> Config:
    """Return the run's configuration, with as many clients as the engine has nodes."""
    config, count = federation.config, nodes.population
    if count == config.num_clients:
        return config
    log.warning(
        "the engine has %d nodes, so %d clients take part and not %d",
        *(count, count, config.num_clients),
    )
    sampled = config.clients_per_round and min(config.clients_per_round, count)
    return config.model_copy(update={"num_clients": count, "clients_per_round": sampled})


def _stack(
    federation: Federation, grid: Grid, clients: int, resumed: Checkpoint | None
) -> StackChoice:
    """Return how many clients to train as one; a resumed run keeps the number it began with."""
    if not isinstance(grid, GroupGrid):
        return StackChoice(1, "this engine calls clients one by one")
    if resumed is not None and federation.config.simulation.stack == "auto":
        return StackChoice(resumed.stack, "the run began with it")
    return choose_stack(federation, clients, grid.num_workers)


def measures(federation: Federation, nodes: Nodes) -> list[Measure]:
    """Return what measures global and interpolated models; nothing if there is no test set.

    Raises:
        InputError: clients are to evaluate, and none can.
    """
    config, settings = federation.config, federation.config.evaluation
    if settings.client_fraction:
        federation.check_testers(nodes.test_examples.values())
    if federation.test is None:
        if not settings.client_fraction:
            log.warning("there is no test set: give evaluation.client_fraction, or nothing tests")
        return []
    network, train = federation.network.twin(), federation.reference
    options = settings, config.seed, config.rounds
    return [Measure(network, federation.test, train, *options, sizes=nodes.train_examples)]


def _progress(config: Config, folder: RunFolder, resumed: Checkpoint | None) -> Progress:
    title = f"{config.strategy.name} on {config.data.name}: {folder.path}"
    done = resumed.number if resumed else 0
    return Progress(title, config.rounds, measured=columns(config.evaluation), done=done)


def round_settings(federation: Federation, config: Config, stack: int) -> RoundSettings:
    """Return what every round of a run has in common."""
    return RoundSettings(
        rounds=config.rounds,
        seed=config.seed,
        clients_per_round=config.clients_per_round,
        evaluate_fraction=config.evaluation.client_fraction,
        evaluate_every=config.evaluation.client_every,
        timeout=config.timeout,
        stack=stack,
        partial_sums=config.simulation.partial_aggregation and not federation.codec.half,
        max_update_norm=config.max_update_norm,
        min_replies=config.min_replies,
    )
