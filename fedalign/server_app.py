"""The ServerApp: config → data → model → strategy → rounds → run folder."""

from __future__ import annotations

import gc
import logging

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from fedalign.federation.federation import Federation, federation_of
from fedalign.messages.groups import GroupGrid
from fedalign.network.device import torch_threads
from fedalign.report.figures import save
from fedalign.report.partition import dealt, picture
from fedalign.runs.checkpoint import Checkpoint, Checkpoints, resume
from fedalign.runs.folder import RunFolder
from fedalign.runs.manifest import manifest
from fedalign.runs.progress import Progress
from fedalign.server.client_metrics import columns
from fedalign.server.measure import Measure
from fedalign.server.nodes import RemoteNodes, SimulatedNodes
from fedalign.server.rounds import run_rounds

app = ServerApp()
log = logging.getLogger("fedalign")


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run a federation from the first round to the last, on whatever engine the grid belongs to."""
    federation = federation_of(context.run_config)
    config, network = federation.config, federation.network
    members = _members(grid, federation)
    present = members.present()
    if members.population != config.num_clients:
        count = (members.population, config.num_clients)
        log.warning("the engine has %d nodes: so many clients take part, not %d", *count)
        config = config.model_copy(update={"num_clients": members.population})
    strategy = federation.strategy(config.num_clients)
    resumed = resume(config, strategy, grid)
    taking_part = min(config.clients_per_round or len(present), len(present))
    stack = _stack(federation, grid, taking_part, resumed)
    facts = manifest(config, federation, members, type(grid).__name__, stack)

    gc.freeze()  # some Flower strategies collect garbage reply by reply; none of this is any
    measures = _measures(federation, members)
    folder = RunFolder(config, facts, resumed)
    if not members.own:
        save(picture(dealt(federation, config.num_clients)), folder.path / "partition.png")
    done, start = (resumed.number, resumed.model) if resumed else (0, network.initial)
    title = f"{config.strategy.name} on {config.data.name}: {folder.path}"
    progress = Progress(title, config.rounds, measured=columns(config.evaluation), done=done)
    checkpoints = Checkpoints(config, strategy, grid, stack)
    # A second torch thread spins on after each large operation; measuring shares out batches.
    with folder, progress, torch_threads(1):
        model = run_rounds(
            strategy,
            grid,
            members.present,
            start,
            first=done + 1,
            rounds=config.rounds,
            seed=config.seed,
            clients_per_round=config.clients_per_round,
            evaluate_fraction=config.evaluation.client_fraction,
            evaluate_every=config.evaluation.client_every,
            can_test=members.can_test,
            timeout=config.timeout,
            told=members.told,
            stack=stack,
            partial_sums=config.simulation.partial_aggregation and not federation.codec.half,
            codec=federation.codec,
            max_update_norm=config.max_update_norm,
            min_replies=config.min_replies,
            keep=lambda number, who: {p for m in measures for p in m.wants(number, who)},
            callbacks=[*measures, folder, progress, checkpoints],
            overlap=lambda number: (
                config.evaluation.overlap
                and number < config.rounds
                and not checkpoints.is_due(number)
            ),
        )
        folder.save(model)
    print(f"results in {folder.path}", flush=True)


def _members(grid: Grid, federation: Federation) -> SimulatedNodes:
    """Return the federation's nodes; those of a simulation have what the partition gives them."""
    config = federation.config
    if isinstance(grid, GroupGrid):
        nodes = grid.partitions()
        held = [federation.held(partition, len(nodes)) for partition in nodes]
        return SimulatedNodes(nodes, [len(h.trained) for h in held], [len(h.tested) for h in held])
    told = federation.spec.to_config()
    return RemoteNodes(grid, told, config.num_clients, config.min_available_nodes, config.timeout)


def _measures(federation: Federation, members: SimulatedNodes) -> list[Measure]:
    """Return what measures the global model, and models between models: nothing without a test set.

    Raises:
        InputError: clients are to evaluate, and none can.
    """
    config, settings = federation.config, federation.config.evaluation
    if settings.client_fraction:
        federation.check_testers(members.tests.values())
    if federation.test is None:
        if not settings.client_fraction:
            log.warning("there is no test set: give evaluation.client_fraction, or nothing tests")
        return []
    network, train = federation.network.twin(), federation.reference
    told = settings, config.seed, config.rounds
    return [Measure(network, federation.test, train, *told, sizes=members.sizes)]


def _stack(federation: Federation, grid: Grid, clients: int, resumed: Checkpoint | None) -> int:
    """Return how many clients to train as one; a run that goes on keeps what it once measured."""
    if not isinstance(grid, GroupGrid):
        return 1
    if resumed is not None and federation.config.simulation.stack == "auto":
        return resumed.stack
    return federation.stack(clients)
