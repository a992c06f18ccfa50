"""The run's Flower strategy, and whether clients can follow its mask plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideAdaptiveClipping,
    FedAvg,
    QFedAvg,
    Strategy,
)
from flwr.supercore.differential_privacy import KEY_NORM_BIT

from fedalign.errors import InputError
from fedalign.federation.federation import Federation
from fedalign.masks.phases import phases, trainable_mask
from fedalign.messages.copies import for_nodes
from fedalign.messages.rules import ReplyRules
from fedalign.messages.validation import BOUNDS, Bounds
from fedalign.settings.coherence import moves_neurons
from fedalign.settings.contracts import (
    FLOWER_SAMPLING,
    AddsNoise,
    PlansMasks,
    StrategyArguments,
)


def strategy_of(federation: Federation, num_clients: int | None = None) -> Strategy:
    """Return a fresh strategy of a federation, for a server that samples the clients itself.

    Args:
        federation: the run's.
        num_clients: the number of clients, where it is not that of the configuration.

    Raises:
        InputError: the options of the strategy contradict each other, or clients could not follow
            its mask plan.
    """
    config, network = federation.config, federation.network
    num_clients = config.num_clients if num_clients is None else num_clients
    moved = moves_neurons(config.strategy)
    if moved and not network.symmetry:
        raise InputError(
            f"strategy.name: {config.strategy.name!r} needs a model whose exchangeable neurons are "
            f"known: {network.exchangeable.reason}; give its class a method symmetry(), or choose "
            "another strategy"
        )
    arguments: StrategyArguments = {
        "layout": network.layout,
        "symmetry": network.symmetry,
        "initial": network.initial,
        "seed": config.seed,
        "num_clients": num_clients,
        "num_sampled_clients": min(config.clients_per_round or num_clients, num_clients),
        "federation": federation,
    }
    built: Strategy = config.strategy.build(**arguments, **FLOWER_SAMPLING)
    for strategy in chain(built):
        _check_counts(strategy, arguments["num_sampled_clients"])
        if getattr(type(strategy), "_construct_messages", None) is FedAvg._construct_messages:
            vars(strategy)["_construct_messages"] = for_nodes  # which does the same, quicker
        if isinstance(strategy, PlansMasks):
            _check_plan(federation, strategy, moved)
            _check_fixed_value(federation, strategy)
    return built


def _check_counts(strategy: Strategy, sampled: int) -> None:
    """Raise `InputError` if a strategy counts on more clients than a round has."""
    most = {"num_malicious_nodes": sampled - 1, "num_nodes_to_select": sampled}
    for name in most.keys() & vars(strategy).keys():
        if (count := vars(strategy)[name]) > most[name]:
            raise InputError(
                f"strategy.{name}: {count} is not allowed: {sampled} clients are in a round, so "
                f"{most[name]} at most"
            )


def rules_of(
    strategy: Strategy,
    examples: Mapping[int, int] | None = None,
    bounds: Callable[[int, int], Mapping[str, Bounds]] | None = None,
) -> ReplyRules:
    """Return what a strategy, with those that it wraps, needs of every reply.

    Args:
        strategy: any Flower strategy.
        examples: by partition, how many examples a client has; None: what it says is believed.
        bounds: of a client's metrics, see `ReplyRules`.
    """
    metrics: dict[str, Bounds] = {}
    arrays: list[str] = []
    for own in chain(strategy):
        if isinstance(own, QFedAvg):
            metrics[own.train_loss_key] = (0.0, BOUNDS["loss"][1])
        if isinstance(own, DifferentialPrivacyClientSideAdaptiveClipping):
            metrics[KEY_NORM_BIT] = (0.0, 1.0)
        metrics |= getattr(own, "reply_metrics", {})
        arrays += getattr(own, "reply_arrays", ())
    return ReplyRules(metrics, arrays, bounds or (lambda *_: {}), examples or {})


def expect(strategy: Strategy, count: int) -> None:
    """Tell strategies with noise how many clients they have: it is scaled by their number."""
    for own in chain(strategy):
        if isinstance(own, AddsNoise) and hasattr(own, "num_sampled_clients"):
            own.num_sampled_clients = count


def chain(strategy: Strategy) -> list[Strategy]:
    """Return a strategy and those that it wraps, which may refer back to it."""
    found = [strategy]
    for outer in found:
        inner = inner_strategies(outer).values()
        found += [own for own in inner if not any(own is known for known in found)]
    return found


def inner_strategies(strategy: Strategy) -> dict[str, Strategy]:
    """Return the strategies that a strategy wraps itself, by the name of the attribute."""
    return {name: value for name, value in vars(strategy).items() if isinstance(value, Strategy)}


def _check_plan(federation: Federation, strategy: PlansMasks, moved: bool) -> None:
    """Raise `InputError` for a mask plan that clients, or a strategy around it, cannot follow."""
    layout, clients = federation.network.layout, range(federation.config.num_clients)
    try:
        plan = strategy.plan(1)
        for epochs in set(map(federation.algorithms.epochs, clients)):
            phases(plan, layout, epochs, epochs)
    except ValueError as error:
        raise InputError(f"strategy: {error}") from None
    if moved and trainable_mask(plan, layout) is not None:
        raise InputError(
            "strategy.base: its mask fixes weights at their places for the round, and "
            f"{federation.config.strategy.name!r} moves neurons (fixed_ratio: 0, or a "
            "schedule in which all weights train, such as complement_half)"
        )


def _check_fixed_value(federation: Federation, strategy: PlansMasks) -> None:
    """Raise `InputError` if private weights would be fixed at values that come with the model."""
    value, private = getattr(strategy, "fixed_value", "global"), federation.private
    mask = trainable_mask(strategy.plan(1), federation.network.layout)
    if value != "global" and private and mask is not None:
        own = private.mask()[: len(mask)]
        if bool((own & ~mask).any()):
            raise InputError(
                f"strategy.fixed_value: {value!r} is sent with the model, and the tensors of "
                "client.private are not (strategy.exclude: the same tensors, or fixed_value: "
                "global)"
            )
