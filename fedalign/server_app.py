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
from fedalign.network.device import torch_threads
from fedalign.runs.checkpoint import Checkpoint, Checkpoints, resume
from fedalign.runs.client_settings import write_client_settings
from fedalign.runs.folder import RunFolder
from fedalign.runs.interrupts import Interrupts
from fedalign.runs.lock import locked
from fedalign.runs.log import RunLog, say
from fedalign.runs.manifest import manifest
from fedalign.runs.models import keepers_of
from fedalign.runs.paths import folder_of
from fedalign.runs.progress import Progress
from fedalign.runs.split import write_split
from fedalign.runs.stopping import StopRule, check_metrics
from fedalign.server.callbacks import CallbackRunner
from fedalign.server.client_metrics import columns
from fedalign.server.client_states import states_of
from fedalign.server.meter import Meter
from fedalign.server.participation import LimpingRunError, Participation, suggestion
from fedalign.server.rounds import RoundLoop
from fedalign.server.setup import (
    bounds_of,
    config_of,
    measures,
    nodes_of,
    round_settings,
    stack_of,
    steps_of,
)
from fedalign.server.strategies import strategy_of
from fedalign.settings.config import Config
from fedalign.trackers.tracking import Tracking

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RARELY = 50_000  # new objects, of which a message to a client has about ten
app = ServerApp()
log = logging.getLogger("fedalign")


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run a federation from the first round to the last, on whatever engine the grid belongs to."""
    with RunLog() as said:
        _run(federation_of(context.run_config), grid, said)


def _run(federation: Federation, grid: Grid, said: RunLog) -> None:
    check_metrics(federation.config)
    first = federation.first
    if federation.start.file:
        say(federation.start.line())
    meter, nodes = Meter(grid), nodes_of(grid, federation)
    clients = len(nodes.present())
    config = config_of(federation, nodes)
    tracking = Tracking(config, lambda: _figures(config))
    strategy = strategy_of(federation, config.num_clients)
    federation.check_clients()
    measured, states = measures(federation, nodes), states_of(config, grid)
    with locked(folder_of(config)):
        resumed = resume(config, strategy, states)
        sampled = min(config.clients_per_round or clients, clients)
        stack = stack_of(federation, grid, sampled, resumed.stack if resumed else None)
        facts = manifest(config, federation, nodes, type(grid).__name__, stack)
        gc.freeze()  # some Flower strategies collect garbage at each reply; nothing so far is any
        seen = Participation.restored(resumed.participation) if resumed else Participation()
        folder = RunFolder(config, facts, resumed, seen, meter)
        said.open(folder.path)
        if config.per_client:
            write_client_settings(config, nodes.present(), folder.path)
        if not nodes.hold_own_data:
            write_split(federation, config.num_clients, folder.path)
        earlier = folder.rounds() if resumed else []
        rule = StopRule(config, earlier)
        keepers = keepers_of(config, federation.network, rule, earlier)
        progress = _progress(config, folder, resumed)
        checkpoints = Checkpoints(config, strategy, states, stack.size, seen, resumed)
        tracking.resume(after=resumed.number if resumed else 0)
        callbacks = [*measured, rule, folder, *keepers, tracking, progress, checkpoints]
        on_cpu = federation.network.device.type == "cpu"
        overlap = config.evaluation.overlap and not rule  # which decides on the next round
        runner = CallbackRunner(callbacks, overlap, config.rounds, thread=on_cpu)
        interrupts = Interrupts(progress.tell, wanted=config.checkpoint_every != 0)

        def is_over() -> bool:
            interrupts.check()
            return rule.reason is not None

        loop = RoundLoop(
            strategy,
            grid,
            nodes,
            round_settings(federation, config, stack.size),
            federation.codec,
            runner,
            counts_known=True,
            bounds=bounds_of(federation),
            participation=seen,
            states=states,
            steps=steps_of(federation),
            is_over=is_over,
        )
        done, model = (resumed.number, resumed.model) if resumed else (0, first)
        # A second torch thread keeps spinning after each large operation; measuring has its own.
        with interrupts, folder, tracking, checkpoints, progress, torch_threads(1), _rare_garbage():
            model = loop.run(model, first=done + 1)
            folder.add(rule.facts())
            if not nodes.hold_own_data:  # at the end, so that no round waits for it
                _draw(federation, config, folder.path / "partition.png")
            network = federation.network
            folder.save(network.layout.to_state(model, network.module))
    say(f"results in {folder.path}{rule.end()}")
    _say_who_took_part(seen, config, folder)
    interrupts.check()  # pressed in the last round: no further run begins


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


def _progress(config: Config, folder: RunFolder, resumed: Checkpoint | None) -> Progress:
    title = f"{config.strategy.name} on {config.data.name}: {folder.path}"
    done = resumed.number if resumed else 0
    return Progress(title, config.rounds, measured=columns(config.evaluation), done=done)
