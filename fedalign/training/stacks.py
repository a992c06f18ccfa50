"""How many clients are trained as one stack: a rule from the model, its memory and the device."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar
from weakref import WeakKeyDictionary

import torch

from fedalign.federation.federation import Federation
from fedalign.network.device import gpu_memory
from fedalign.network.graphs import free_memory
from fedalign.network.network import Network

SMALL = 25_000_000  # multiply-adds of a client's step; with more, one client keeps a core busy
BLOCK = 1 << 21  # numbers in a block of models on a CPU: 8 MiB, about what its caches hold
MAX_STACK, MIN_STACK = 64, 4  # on a CPU; more gain nothing, and fewer cost more than they gain
SHARERS = 8  # workers on CPUs that can share a round's clients
COPIES = 16  # of a model: weights, gradient, moments, anchor, …, and of all while they are captured
FILL = 0.75  # the part of a GPU's free memory that stacks may use

Client = TypeVar("Client")
Result = TypeVar("Result")
log = logging.getLogger("fedalign")

_limits: WeakKeyDictionary[Federation, int] = WeakKeyDictionary()
"""The largest stacks that may fit, of federations whose larger ones ran out of GPU memory."""
_alone: WeakKeyDictionary[Federation, str] = WeakKeyDictionary()
"""Why clients are not stacked, of federations whose client algorithm showed that they cannot be."""


class StackChoice(NamedTuple):
    """How many clients are trained as one, and why so many."""

    size: int
    reason: str


def choose_stack(federation: Federation, clients: int, workers: int = 1) -> StackChoice:
    """Return how many of a round's `clients` to train as one: `simulation.stack`, or by a rule.

    Nothing is timed, so the choice is the same in every run on such a machine. On a CPU, small
    models are stacked until a block of them fills the caches. On a GPU, all clients of a worker
    that fit into its memory are one stack.
    """
    wanted = federation.config.simulation.stack
    network = federation.network
    if network.stacked is None:
        return StackChoice(1 if wanted == "auto" else wanted, network.stacking.line)
    size, reason = _choice(federation, clients, workers)
    return StackChoice(size, "; ".join(filter(None, (reason, network.stacking.line))))


def _choice(federation: Federation, clients: int, workers: int) -> StackChoice:
    wanted, network = federation.config.simulation.stack, federation.network
    if wanted != "auto":
        return StackChoice(wanted, "set by simulation.stack")
    batch = max(getattr(client, "batch_size", 32) for client in federation.algorithms.different)
    memory = gpu_memory(network.device)
    if memory is None:
        return _on_cpu(network, batch, clients)
    sharers = federation.config.simulation.workers_per_gpu(workers)
    return _on_gpu(network, batch, -(-clients // workers), int(FILL * memory[0]) // sharers)


def _on_cpu(network: Network, batch: int, clients: int) -> StackChoice:
    numbers, work = network.layout.num_parameters, batch * network.footprint.multiply_adds
    reason = f"a client's step takes {work / 1e6:.3g} million multiply-adds"
    if work > SMALL:
        return StackChoice(1, f"{reason}, and {SMALL // 10**6} keep a core busy")
    best, most = min(MAX_STACK, BLOCK // numbers), -(-clients // SHARERS)
    if best < MIN_STACK:
        return StackChoice(1, f"{MIN_STACK} models of {numbers:,} numbers do not fit into a cache")
    if most < best:
        return StackChoice(most, f"an eighth of {clients} clients, so that workers can share them")
    return StackChoice(best, f"{reason}, and a model has {numbers:,} numbers")


def _on_gpu(network: Network, batch: int, clients: int, room: int) -> StackChoice:
    """Return the stack for a worker's `clients` in `room` bytes: all of them, or even parts."""
    activations = 4 * batch * network.footprint.activations  # and gradients, plain and captured
    each = 4 * network.layout.size * COPIES + activations
    parts = -(-clients // max(1, room // each))
    sizes = f"{each / 2**20:,.1f} MiB each, room for {room / 2**20:,.0f} MiB"
    which = "all clients of a worker" if parts == 1 else f"its {clients} clients in {parts} parts"
    return StackChoice(-(-clients // parts), f"{which}: {sizes}")


def _forget(network: Network) -> None:
    """Free the memory of a stack that did not fit."""
    if network.graphs is not None:
        network.graphs.forget()
    if network.stacked is not None:
        network.stacked.forget()
    free_memory()


def never_stack(federation: Federation, why: str) -> None:
    """Train clients one by one from now on, because of what their algorithm does."""
    _alone[federation] = f"clients train one by one, since their training {why}"
    _limits[federation] = 1


def notes(federation: Federation) -> list[str]:
    """Return what the server should know of how this process trains stacks."""
    return [_alone[federation]] if federation in _alone else []


def in_memory(
    federation: Federation,
    clients: Sequence[Client],
    train: Callable[[Sequence[Client]], list[Result]],
) -> list[Result]:
    """Return what `train` returns of a stack, in halves where the GPU has no room for all of it.

    The size that fits is remembered, so that later stacks do not run out of memory again.

    Raises:
        torch.OutOfMemoryError: there is no room for one client.
    """
    count = len(clients)
    if count <= _limits.get(federation, count):
        try:
            return train(clients)
        except torch.OutOfMemoryError:
            if count == 1:
                raise
        _limits[federation] = count // 2
        log.warning("the GPU has no room for a stack of %d; next try: %d", count, count // 2)
        _forget(federation.network)
    halves = clients[: -(-count // 2)], clients[-(-count // 2) :]
    return [result for half in halves for result in in_memory(federation, half, train)]
