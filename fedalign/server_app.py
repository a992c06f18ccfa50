"""The ServerApp: config → data → model → strategy → rounds → run folder."""

from __future__ import annotations

import logging

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedalign.cohorts import CohortGrid
from fedalign.federation import federation_of
from fedalign.landscape.measure import Measure
from fedalign.network import torch_threads
from fedalign.rounds import discover, run_rounds
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
    cohort = federation.cohort(taking_part) if isinstance(grid, CohortGrid) else 1
    facts = manifest(federation, len(nodes), type(grid).__name__, cohort)

    strategy = federation.strategy()
    measure = Measure(
        network,
        federation.test,
        federation.train,
        config.evaluation,
        config.seed,
        config.rounds,
        sizes=[len(shard) for shard in federation.shards(len(nodes))],
    )
    folder = RunFolder(config, facts, measure)
    progress = Progress(
        f"{config.strategy.name} on {config.data.name}: {folder.path}", config.rounds
    )
    # A second torch thread spins on after each large operation; measuring shares out batches.
    with folder, progress, torch_threads(1):
        model = run_rounds(
            strategy,
            grid,
            nodes,
            network.initial,
            rounds=config.rounds,
            seed=config.seed,
            clients_per_round=config.clients_per_round,
            evaluate_fraction=config.evaluation.client_fraction,
            timeout=config.timeout,
            cohort=cohort,
            fused=config.simulation.fuse,
            keep=measure.wants,
            callbacks=[measure, folder, progress],
        )
        folder.save(model)
    print(f"results in {folder.path}", flush=True)
