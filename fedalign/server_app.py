"""The ServerApp: config → data → model → strategy → rounds → run folder."""

from __future__ import annotations

import gc
import logging

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedalign.cohorts import CohortGrid
from fedalign.device import torch_threads
from fedalign.federation import Federation, federation_of
from fedalign.landscape.measure import Measure
from fedalign.nodes import discover
from fedalign.personal import columns
from fedalign.report.figures import save
from fedalign.report.partition import dealt, picture
from fedalign.rounds import run_rounds
from fedalign.runs.checkpoint import Checkpoint, Checkpoints, resume
from fedalign.runs.folder import RunFolder
from fedalign.runs.manifest import manifest
from fedalign.runs.progress import Progress

app = ServerApp()
log = logging.getLogger("fedalign")


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run a federation from the first round to the last, on whatever engine the grid belongs to."""
    federation = federation_of(context.run_config)
    config, network = federation.config, federation.network
    nodes = discover(grid, config.timeout)
    if len(nodes) != config.num_clients:
        count = (len(nodes), config.num_clients)
        log.warning("the engine has %d nodes: so many clients take part, not %d", *count)
        config = config.model_copy(update={"num_clients": len(nodes)})
    taking_part = min(config.clients_per_round or len(nodes), len(nodes))
    strategy = federation.strategy(len(nodes))
    resumed = resume(config, strategy, grid)
    cohort = _cohort(federation, grid, taking_part, resumed)
    facts = manifest(federation, len(nodes), type(grid).__name__, cohort)

    gc.freeze()  # some Flower strategies collect garbage reply by reply; none of this is any
    testers = federation.testers(len(nodes))
    assert federation.test is not None
    measure = Measure(
        network.twin(),
        federation.test,
        federation.train,
        config.evaluation,
        config.seed,
        config.rounds,
        sizes=[len(shard) for shard in federation.shards(len(nodes))],
    )
    folder = RunFolder(config, facts, resumed)
    save(picture(dealt(federation, len(nodes))), folder.path / "partition.png")
    done, start = (resumed.number, resumed.model) if resumed else (0, network.initial)
    title = f"{config.strategy.name} on {config.data.name}: {folder.path}"
    progress = Progress(title, config.rounds, measured=columns(config.evaluation), done=done)
    checkpoints = Checkpoints(config, strategy, grid, cohort)
    # A second torch thread spins on after each large operation; measuring shares out batches.
    with folder, progress, torch_threads(1):
        model = run_rounds(
            strategy,
            grid,
            nodes,
            start,
            first=done + 1,
            rounds=config.rounds,
            seed=config.seed,
            clients_per_round=config.clients_per_round,
            evaluate_fraction=config.evaluation.client_fraction,
            evaluate_every=config.evaluation.client_every,
            testers=testers,
            timeout=config.timeout,
            cohort=cohort,
            fused=config.simulation.fuse and not federation.codec.half,
            codec=federation.codec,
            max_update_norm=config.max_update_norm,
            keep=measure.wants,
            callbacks=[measure, folder, progress, checkpoints],
            overlap=lambda number: (
                config.evaluation.overlap
                and number < config.rounds
                and not checkpoints.is_due(number)
            ),
        )
        folder.save(model)
    print(f"results in {folder.path}", flush=True)


def _cohort(federation: Federation, grid: Grid, clients: int, resumed: Checkpoint | None) -> int:
    """Return how many clients to train as one; a run that goes on keeps what it once measured."""
    if not isinstance(grid, CohortGrid):
        return 1
    if resumed is not None and federation.config.simulation.cohort == "auto":
        return resumed.cohort
    return federation.cohort(clients)
