"""How many clients are trained as one stack: as many as is fastest and the GPU has room for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TypeVar
from weakref import WeakKeyDictionary

import numpy as np
import torch

from fedalign.algorithm import Stack
from fedalign.federation.federation import Federation
from fedalign.masks.plan import MaskPlan
from fedalign.rng import rng

Client = TypeVar("Client")
Result = TypeVar("Result")
log = logging.getLogger("fedalign")

_limits: WeakKeyDictionary[Federation, int] = WeakKeyDictionary()
"""The largest stacks that may fit, of federations whose larger ones ran out of GPU memory."""


def stack_size(federation: Federation, clients: int) -> int:
    """Return how many of a round's `clients` to train as one: `simulation.stack`, or the fastest.

    See `stack_times` for what is tried.
    """
    wanted = federation.config.simulation.stack
    if wanted != "auto":
        return wanted
    times = stack_times(federation, clients)
    return min(times, key=lambda size: times[size], default=1)


def stack_times(federation: Federation, clients: int) -> dict[int, float]:
    """Return the seconds per client in stacks of 1, 4, 16 and 64, for as long as they fall.

    Each is measured with a short stretch of local training. A larger stack must be faster by a
    tenth, so that the same machine always makes the same choice. A stack has at most an eighth of a
    round's `clients`, so that eight workers can share them, however many there are. The result is
    empty where there is no choice.
    """
    most = -(-clients // 8)
    if most == 1 or federation.network.stacked is None:
        return {}
    times = {1: _seconds(federation, 1)}
    for size in (min(size, most) for size in (4, 16, 64)):
        if size <= max(times):
            break
        try:
            taken = _seconds(federation, size)
        except torch.OutOfMemoryError:
            break
        if taken > 0.9 * min(times.values()):
            break
        times[size] = taken
    return times


def _seconds(federation: Federation, size: int) -> float:
    """Return the seconds per client of a short training in a stack of `size`: the best of three."""
    network, data = federation.network, federation.train
    rows = [np.arange(min(32, len(data)))] * size
    start, taken = network.receive(network.initial), []
    for _ in range(3):
        block, streams = start.repeat(size, 1), [rng(0) for _ in rows]
        began = time.perf_counter()
        stack = Stack(network, data, start, block, rows, streams, [MaskPlan()] * size)
        float(federation.client.train(stack).losses.sum())  # waits for the GPU
        taken.append(time.perf_counter() - began)
    return min(taken) / size


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
        torch.cuda.empty_cache()
    halves = clients[: -(-count // 2)], clients[-(-count // 2) :]
    return [result for half in halves for result in in_memory(federation, half, train)]
