"""What the server of a run is made of, beside its strategy: nodes, measurements, settings."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any, cast

from flwr.serverapp import Grid

from fedalign.errors import InputError
from fedalign.federation.federation import Federation
from fedalign.federation.local_data import CONSTANTS
from fedalign.messages.groups import GroupGrid
from fedalign.messages.validation import Bounds
from fedalign.network.features import last_linear
from fedalign.server.callbacks import Callback
from fedalign.server.fusing import judges
from fedalign.server.measure import Measure
from fedalign.server.nodes import Nodes, SimulatedNodes
from fedalign.server.remote_nodes import RemoteNodes
from fedalign.server.round import RoundSettings
from fedalign.server.tasks import Judging
from fedalign.settings.client_contracts import BoundsMetrics, HasEpochs
from fedalign.settings.common import private_of
from fedalign.settings.config import Config
from fedalign.training.stacks import StackChoice, choose_stack
from fedalign.transfer.judge import Judge

log = logging.getLogger("fedalign")


def nodes_of(grid: Grid, federation: Federation) -> Nodes:
    """Return the federation's nodes; simulated ones hold what the partition gives them."""
    config = federation.config
    told = {CONSTANTS: federation.constants} if federation.constants else {}
    if isinstance(grid, GroupGrid):
        ids = grid.partitions()
        trained = [federation.num_trained(partition, len(ids)) for partition in ids]
        tested = [len(federation.held(partition, len(ids)).tested) for partition in ids]
        return SimulatedNodes(ids, trained, tested, told)
    spec, least = federation.spec.to_config() | told, config.min_available_nodes
    if type(grid).__name__ == "InMemoryGrid":  # Flower's own engine, which starts the nodes itself
        return RemoteNodes(grid, spec, None, least, config.timeout)

    def dealt(partition: int) -> tuple[int, int] | None:
        if federation.reference is None:
            return None
        tested = federation.held(partition, config.num_clients).tested
        return federation.num_trained(partition, config.num_clients), len(tested)

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
    """Return what measures global, interpolated and fused models, and judges bodies by tasks.

    Raises:
        InputError: clients are to evaluate, and none can; a fusion lacks something; or tasks do not
            fit the run.
    """
    return [*_of_models(federation, nodes), *_of_tasks(federation)]


def _of_tasks(federation: Federation) -> list[Judging]:
    settings = federation.config.evaluation
    if not settings.tasks.on:
        return []
    private, module = federation.private, federation.network.module
    if private and not private.within(last_linear(module)):
        raise InputError(
            "evaluation.tasks: they judge the server's body, of which it lacks what is private "
            f"({', '.join(sorted(private.names)[:3])}); only the last layer may be"
        )
    return [Judging(Judge(federation), settings, federation.config.rounds)]


def _of_models(federation: Federation, nodes: Nodes) -> list[Callback]:
    """Return what measures global and interpolated models; nothing if there is no test set."""
    config, settings = federation.config, federation.config.evaluation
    if settings.client_fraction:
        federation.check_testers(nodes.test_examples.values())
    if federation.private:
        for key in ("fusions", "corruptions"):
            if getattr(settings, key):
                reason = "models with private tensors cannot be measured"
                raise InputError(f"evaluation.{key}: {reason}")
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
    patterns, settings = private_of(federation.config.client), federation.config.evaluation
    tested = settings.client_fraction or settings.tasks.on
    cure = "" if tested else "; nothing tests: give "
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


def steps_of(federation: Federation) -> Callable[[int, int], int] | None:
    """Return how many steps a client makes with so many examples; None if that is not known."""
    if not _counts_steps(federation.client_of(0)):
        return None

    def steps(partition: int, examples: int) -> int:
        client: Any = federation.client_of(partition)
        return int(client.epochs) * -(-examples // int(client.batch_size))

    return steps


def _counts_steps(client: object) -> bool:
    return isinstance(client, HasEpochs) and isinstance(getattr(client, "batch_size", None), int)


def bounds_of(federation: Federation) -> Callable[[int, int], Mapping[str, Bounds]] | None:
    """Return the bounds of a client's metrics, given its number of examples; None if unknown."""
    if not all(isinstance(own, BoundsMetrics) for own in federation.algorithms.different):
        return None

    def bounds(partition: int, examples: int) -> Mapping[str, Bounds]:
        client = cast(BoundsMetrics, federation.client_of(partition))
        return client.metric_bounds(examples)

    return bounds
