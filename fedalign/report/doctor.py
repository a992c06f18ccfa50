"""Tell how a configuration would run on this machine: workers, stack, and the cost of a message."""

from __future__ import annotations

import os
import platform

import torch

from fedalign.federation.federation import Federation
from fedalign.messages.partial_sums import averages, max_sums
from fedalign.network.device import gpu_facts, pick_device
from fedalign.server.strategies import strategy_of
from fedalign.settings.config import Config
from fedalign.settings.registry import HOME
from fedalign.simulation.app import FlowerApp
from fedalign.simulation.auto import needs_workers
from fedalign.simulation.echo import client, message_seconds
from fedalign.simulation.inline import InlineGrid
from fedalign.simulation.ray_setup import full_backend_config
from fedalign.training.stacks import choose_stack
from fedalign.training.trial import Findings, trial

ECHO = FlowerApp(HOME, "", "fedalign.simulation.echo:client", {})


def doctor(config: Config) -> dict[str, str]:
    """Return what `fedalign doctor` prints, by heading; measures messages.

    Takes seconds, since it starts workers.
    """
    federation = Federation(config)
    clients = config.sampled
    workers, engine, messages = _engine(config, clients, federation.network.layout.num_values)
    return {
        "machine": _machine(),
        "device": _device(federation),
        "engine": engine,
        "threads": f"{config.client.options.get('threads', 1)} torch thread(s) per client; "
        f"{config.evaluation.threads} share heavy measurements on the server",
        "stack": _stack(federation, clients, workers),
        "mixes": _mixes(federation),
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


def _device(federation: Federation) -> str:
    """Return the line on the device, its precision, and what a trial shows."""
    config, device = federation.config, federation.network.device
    kind = "bfloat16 in forward and backward passes" if config.precision == "bf16" else "float32"
    if device.type == "cpu":
        return f"CPU, {kind}; the same seed gives the same bits"
    kind += ", TF32 in matrix products and convolutions" if config.tf32 else ""
    found = trial(federation)
    why = "; ".join(found.not_captured)
    graphs = f"steps run without CUDA graphs: {why}" if why else "steps are CUDA graphs"
    ways = ", ".join(sorted(set(found.convolutions.values())))
    graphs += f"; convolutions: {ways}" if ways else ""
    return f"{gpu_facts(device)['name']}, {kind}; {_reproducible(config, found)}; {graphs}"


def _reproducible(config: Config, found: Findings) -> str:
    if not config.deterministic:
        return "two runs may differ in the last bits (deterministic: false)"
    if found.not_reproducible:
        missing = ", ".join(found.not_reproducible)
        return f"two runs may differ: nothing deterministic exists for {missing}"
    return "the same seed gives the same bits on such a card with the same versions"


def _engine(config: Config, clients: int, size: int) -> tuple[int, str, str]:
    """Return the number of workers, and the lines on the engine and on its messages."""
    settings, count = config.simulation, min(clients, 100)
    if settings.backend == "flower":
        return 1, "flower: Flower's own, on Ray", "not measured; usually 10 to 20 ms per client"
    engine = settings.backend_config(config.device)
    alone = settings.backend == "auto" and not needs_workers(full_backend_config(engine))
    if settings.backend == "inline" or alone:
        seconds = message_seconds(InlineGrid(client, count), size, count)
        line = "auto: in this process, and on Ray workers too if clients keep it busy for long"
        line = line if alone else "inline: all clients run in this process"
        return 1, line, _cost(seconds, count, size)
    from fedalign.simulation.workers import open_grid

    with open_grid(ECHO, count, {}, engine, None) as grid:
        grid.start(client)
        seconds, workers = message_seconds(grid, size, count), grid.num_workers
    return workers, _workers(config, workers), _cost(seconds, count, size)


def _workers(config: Config, workers: int) -> str:
    """Return the line on Ray's workers, and on the GPUs that they share."""
    cpus, gpus = config.simulation.client_cpus, config.simulation.client_gpus
    on_gpus = pick_device(config.device).type == "cuda"
    each = int(on_gpus) if gpus == "auto" else gpus
    line = f"ray: {workers} workers with {cpus:g} CPUs and {each:g} GPUs each"
    line += " (simulation.client_cpus, client_gpus)"
    if on_gpus and gpus == 0:
        return f"{line}; all of them use the first GPU: simulation.client_gpus=auto makes one a GPU"
    if on_gpus and workers > 1:
        return f"{line}; simulation.stack: auto, and so the last bits, depend on their number"
    return line


def _cost(seconds: float, clients: int, size: int) -> str:
    milliseconds = f"{1000 * seconds:.2f} ms per client"
    return f"{milliseconds}, measured with {clients} clients and {size:,} numbers a message"


def _stack(federation: Federation, clients: int, workers: int) -> str:
    size, reason = choose_stack(federation, clients, workers)
    kinds = len(federation.algorithms.of_stacks)
    reason += f"; clients of {kinds} kinds are not mixed in a stack" if kinds > 1 else ""
    stacking = federation.network.stacking
    if stacking.runner is None:
        return f"groups of {size} of {clients} clients: {reason}" if size > 1 else f"1: {reason}"
    return f"{size} of {clients} clients are trained together: {reason}"


def _mixes(federation: Federation) -> str:
    mixing = federation.network.mixing
    why = f", since {mixing.reason}" if mixing.reason else ""
    together = "together" if mixing.runner else f"one by one{why}"
    return f"mixed models, as on a line between two, are evaluated {together}"


def _sums(federation: Federation, clients: int) -> str:
    if not federation.config.simulation.partial_aggregation:
        return "none, set by simulation.partial_aggregation: every model reaches the server"
    if not averages(strategy_of(federation)):
        return "none: the strategy needs every single model"
    most = max_sums(4 * federation.network.layout.num_values)
    if clients <= most:
        return f"none needed: each of the {clients} models of a round reaches the server by itself"
    return f"the models of {clients} clients reach the server as at most {most} partial sums"
