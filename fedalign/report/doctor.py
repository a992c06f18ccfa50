"""Tell how a configuration would run on this machine: workers, stack, and the cost of a message."""

from __future__ import annotations

import os
import platform

import torch

from fedalign.federation.federation import Federation
from fedalign.messages.partial_sums import averages, max_sums
from fedalign.server.strategies import strategy_of
from fedalign.settings.config import Config
from fedalign.settings.registry import HOME
from fedalign.simulation.app import FlowerApp
from fedalign.simulation.echo import client, message_seconds
from fedalign.simulation.inline import InlineGrid
from fedalign.training.stacks import stack_times

ECHO = FlowerApp(HOME, "", "fedalign.simulation.echo:client", {})


def doctor(config: Config) -> dict[str, str]:
    """Return what `fedalign doctor` prints, by heading; measures the stack and messages.

    Takes seconds, since it trains a few steps and starts workers.
    """
    federation = Federation(config)
    clients = min(config.clients_per_round or config.num_clients, config.num_clients)
    engine, messages = _engine(config, clients, federation.network.layout.num_values)
    return {
        "machine": _machine(),
        "engine": engine,
        "threads": f"{config.client.options.get('threads', 1)} torch thread(s) per client; "
        f"{config.evaluation.threads} share heavy measurements on the server",
        "stack": _stack(federation, clients),
        "sums": _sums(federation, clients),
        "messages": messages,
    }


def _machine() -> str:
    names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    load = os.getloadavg()[0]
    busy = f"; busy (load {load:.1f}): the times below are too high" if load > 1 else ""
    return (
        f"{os.cpu_count()} cores, {gib:.0f} GiB, {', '.join(names) or 'no GPU'}; "
        f"Python {platform.python_version()}, torch {torch.__version__}{busy}"
    )


def _engine(config: Config, clients: int, size: int) -> tuple[str, str]:
    """Return the lines on the engine and on its messages."""
    settings, count = config.simulation, min(clients, 100)
    if settings.backend == "flower":
        return "flower: Flower's own, on Ray", "not measured; usually 10 to 20 ms per client"
    if settings.backend == "inline":
        seconds = message_seconds(InlineGrid(client, count), size, count)
        return "inline: all clients run in this process", _cost(seconds, count, size)
    from fedalign.simulation.workers import open_grid

    with open_grid(ECHO, count, {}, settings.backend_config(), None) as grid:
        seconds, workers = message_seconds(grid, size, count), grid.num_workers
    description = (
        f"ray: {workers} workers with {settings.client_cpus:g} CPUs and "
        f"{settings.client_gpus:g} GPUs each (simulation.client_cpus, client_gpus)"
    )
    if torch.cuda.is_available() and not settings.client_gpus:
        description += "; they see no GPU: simulation.client_gpus=0.5 puts two on each GPU"
    return description, _cost(seconds, count, size)


def _cost(seconds: float, clients: int, size: int) -> str:
    milliseconds = f"{1000 * seconds:.2f} ms per client"
    return f"{milliseconds}, measured with {clients} clients and {size:,} numbers a message"


def _stack(federation: Federation, clients: int) -> str:
    wanted = federation.config.simulation.stack
    if wanted != "auto":
        return f"{wanted}, set by simulation.stack"
    times = stack_times(federation, clients)
    if not times and federation.network.stacked is None:
        return "1: the model has a layer that cannot be stacked, so clients are trained one by one"
    if not times:
        return f"1: {clients} clients per round are too few for a stack"
    best = min(times, key=lambda size: times[size])
    tried = ", ".join(f"{1000 * seconds:.2f} in {size}" for size, seconds in times.items())
    return f"{best} of {clients} clients together; ms per client for a few steps, by stack: {tried}"


def _sums(federation: Federation, clients: int) -> str:
    if not federation.config.simulation.partial_aggregation:
        return "none, set by simulation.partial_aggregation: every model reaches the server"
    if not averages(strategy_of(federation)):
        return "none: the strategy needs every single model"
    most = max_sums(4 * federation.network.layout.num_values)
    if clients <= most:
        return f"none needed: {clients} single models reach the server"
    return f"the models of {clients} clients reach the server as at most {most} partial sums"
