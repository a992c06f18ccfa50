"""What the server of a run is made of, beside its strategy: nodes, measurements, settings."""

from __future__ import annotations

import logging
from collections.abc import Callable

from flwr.serverapp import Grid

from fedalign.federation.federation import Federation
from fedalign.federation.local_data import CONSTANTS
from fedalign.messages.groups import GroupGrid
from fedalign.server.callbacks import Callback
from fedalign.server.fusing import judges
from fedalign.server.measure import Measure
from fedalign.server.nodes import Nodes, SimulatedNodes
from fedalign.server.remote_nodes import RemoteNodes
from fedalign.server.round import RoundSettings
from fedalign.settings.common import private_of
from fedalign.settings.config import Config
from fedalign.settings.contracts import HasEpochs
from fedalign.training.stacks import StackChoice, choose_stack

log = logging.getLogger("fedalign")


def nodes_of(grid: Grid, federation: Federation) -> Nodes:
    """Return the federation's nodes; simulated ones hold what the partition gives them."""
    config = federation.config
    told = {CONSTANTS: federation.constants} if federation.constants else {}
    if isinstance(grid, GroupGrid):
        ids = grid.partitions()
        held = [federation.held(partition, len(ids)) for partition in ids]
        sizes = [len(own.trained) for own in held], [len(own.tested) for own in held]
        return SimulatedNodes(ids, *sizes, told)
    spec, least = federation.spec.to_config() | told, config.min_available_nodes
    if type(grid).__name__ == "InMemoryGrid":  # Flower's own engine, which starts the nodes itself
        return RemoteNodes(grid, spec, None, least, config.timeout)

    def dealt(partition: int) -> tuple[int, int] | None:
        if federation.reference is None:
            return None
        held = federation.held(partition, config.num_clients)
        return len(held.trained), len(held.tested)

    return RemoteNodes(grid, spec, config.num_clients, least, config.timeout, dealt)


def config_of(federation: Federation, nodes: Nodes) -> Config:
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


def stack_of(federation: Federation, grid: Grid, clients: int, before: int | None) -> StackChoice:
    """Return how many clients to train as one; a run keeps the number `before` it was resumed."""
    if not isinstance(grid, GroupGrid):
        return StackChoice(1, "this engine calls clients one by one")
    if before is not None and federation.config.simulation.stack == "auto":
        return StackChoice(before, "the run began with it")
    return choose_stack(federation, clients, grid.num_workers)


def measures(federation: Federation, nodes: Nodes) -> list[Callback]:
    """Return what measures global, interpolated and fused models.

    Nothing does if there is no test set, or if the models of the server lack private tensors.

    Raises:
        InputError: clients are to evaluate, and none can; or a fusion lacks something.
    """
    config, settings = federation.config, federation.config.evaluation
    if settings.client_fraction:
        federation.check_testers(nodes.test_examples.values())
    if federation.private:
        _say_what_is_not_measured(federation)
        return []
    judging = judges(federation)
    if federation.test is None:
        if not settings.client_fraction:
            log.warning("there is no test set: give evaluation.client_fraction, or nothing tests")
        return []
    network, train = federation.network.twin(), federation.reference
    options = settings, config.seed, config.rounds
    measure = Measure(network, federation.test, train, *options, sizes=nodes.train_examples)
    return [measure, *judging]


def _say_what_is_not_measured(federation: Federation) -> None:
    """Log that models of the server are not measured, since parts of them never train there."""
    patterns = private_of(federation.config.client)
    cure = "" if federation.config.evaluation.client_fraction else "; nothing tests: give "
    log.warning(
        "client.private: %s: the server's model has no trained values there, so that it is not "
        "measured, nor are lines between models; clients test with their own%s",
        *(patterns, cure and f"{cure}evaluation.client_fraction"),
    )


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


def steps_of(client: object) -> Callable[[int], int] | None:
    """Return how many steps a client makes with so many examples; None if that is not known."""
    batch = getattr(client, "batch_size", None)
    if not isinstance(client, HasEpochs) or not isinstance(batch, int):
        return None
    epochs = client.epochs
    return lambda examples: epochs * -(-examples // batch)
