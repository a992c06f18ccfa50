"""The run's Flower strategy, and whether clients can follow its mask plan."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flwr.serverapp.strategy import Strategy

from fedalign.errors import InputError
from fedalign.federation.federation import Federation
from fedalign.masks.phases import phases, trainable_mask
from fedalign.settings.registry import FLOWER_SAMPLING


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
    handed = {
        "layout": network.layout,
        "symmetry": network.symmetry,
        "initial": network.initial,
        "seed": config.seed,
        "num_clients": num_clients,
        "num_sampled_clients": min(config.clients_per_round or num_clients, num_clients),
    }
    built: Strategy = config.strategy.build(**handed, **FLOWER_SAMPLING)
    for strategy in _chain(built):
        if hasattr(strategy, "plan"):
            _check_plan(federation, strategy, getattr(built, "moves_neurons", False))
    return built


def _chain(strategy: Any) -> Iterator[Any]:
    """Yield a strategy, the one that it wraps, and so on."""
    while strategy is not None:
        yield strategy
        strategy = getattr(strategy, "base", getattr(strategy, "strategy", None))


def _check_plan(federation: Federation, strategy: Any, moves_neurons: bool) -> None:
    """Raise `InputError` for a mask plan that clients, or a strategy around it, cannot follow."""
    layout, epochs = federation.network.layout, getattr(federation.client, "epochs", 1)
    try:
        plan = strategy.plan(1)
        phases(plan, layout, epochs, epochs)
    except ValueError as error:
        raise InputError(f"strategy: {error}") from None
    if moves_neurons and trainable_mask(plan, layout) is not None:
        raise InputError(
            "strategy.base: its mask fixes weights at their places for the round, and "
            f"{federation.config.strategy.name!r} moves neurons (fixed_ratio: 0, or a "
            "schedule in which all weights train, such as complement_half)"
        )
