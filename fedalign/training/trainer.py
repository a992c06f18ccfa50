"""Local training: make clients of contexts, stacks of clients, and trained models of stacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import nan
from typing import NamedTuple, cast

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message
from torch import Tensor

from fedalign.algorithm import Stack
from fedalign.federation.federation import Federation
from fedalign.masks.phases import trainable_mask
from fedalign.masks.plan import MaskPlan
from fedalign.messages.contexts import places_of, state_at
from fedalign.messages.private import VALUES
from fedalign.messages.records import EXTRA, LOSS, STATE, TrainTask, arrays_of
from fedalign.network.arrays import LazyArray, record_of
from fedalign.network.batch_norm import batch_sizes
from fedalign.network.layout import Layout
from fedalign.network.network import Network
from fedalign.rng import rngs
from fedalign.seeding import watched
from fedalign.settings.client_contracts import ClientAlgorithm
from fedalign.training.private import own_model, take
from fedalign.training.stacks import in_memory, never_stack


class Client(NamedTuple):
    """One of the clients that are trained in one call.

    Attributes:
        place: its position among the messages.
        partition: its number among all clients, of which there are `num_clients`.
        num_clients: the number of all clients.
        rows: the examples that it trains on.
        plan: its mask plan.
        contexts: Flower's, of all clients; the one at its place holds its state.
    """

    place: int
    partition: int
    num_clients: int
    rows: np.ndarray
    plan: MaskPlan
    contexts: Sequence[Context]

    def state(self) -> ArrayRecord | None:
        """Return what it has stored; None if nothing."""
        state = state_at(self.contexts, self.place)
        return cast(ArrayRecord, state[STATE]) if state and STATE in state else None


@dataclass(frozen=True)
class Models:
    """The trained models of a stack.

    Attributes:
        clients: K of them.
        block: their models, `(K, F)`.
        metrics: numbers of the clients, K by name.
        sends: vectors for the server, `(K, P)`, by name.
    """

    clients: Sequence[Client]
    block: Tensor
    metrics: dict[str, list[float]]
    sends: dict[str, Tensor]


def train(
    federation: Federation,
    task: TrainTask,
    message: Message,
    contexts: Sequence[Context],
    stack: int,
) -> Iterator[Models]:
    """Yield all clients' trained models stack by stack, largest number of examples first.

    Clients whose options differ are in different stacks, unless their algorithm can do with that.

    Args:
        federation: the run's.
        task: the one that all clients got.
        message: one of their messages, which all have the same content.
        contexts: theirs; what an algorithm keeps of a client goes into its context.
        stack: the largest number of clients to train as one; where nothing runs several models at
            once, each client is trained from its first step to its last before the next begins.
    """
    if stack > 1 and federation.network.stacked is None:
        stack = 1
    groups: dict[int, list[Client]] = {}
    for place, (partition, count) in enumerate(places_of(contexts)):
        rows = federation.trained_in(task.server_round, partition, count)
        client = Client(place, partition, count, rows, task.plan.of(partition), contexts)
        groups.setdefault(id(federation.algorithms.of_stack(partition)), []).append(client)
    train_stack, steps = partial(_train_stack, federation, task, message), _steps_of(federation)
    for clients in groups.values():
        clients.sort(key=lambda own: (-steps(own), -len(own.rows)))
        for first in range(0, len(clients), stack):
            yield from in_memory(federation, clients[first : first + stack], train_stack)


def _steps_of(federation: Federation) -> Callable[[Client], int]:
    """Return what gives a client's number of steps; 0 where no batches have a known size."""
    pairs, algorithms = bool(federation.network.traits.needs_two), federation.algorithms
    known: dict[tuple[int, int], int] = {}

    def steps(client: Client) -> int:
        algorithm, count = algorithms.of(client.partition), len(client.rows)
        key = id(algorithm), count
        if key not in known:
            size = getattr(algorithm, "batch_size", None)
            known[key] = 0
            if isinstance(size, int):
                epochs = algorithms.epochs(client.partition)
                known[key] = epochs * len(batch_sizes(count, size, pairs))
        return known[key]

    return steps


def _train_stack(
    federation: Federation, task: TrainTask, message: Message, clients: Sequence[Client]
) -> list[Models]:
    """Return the trained models of a stack, as a list of one, or of one each of its clients.

    The latter if the client algorithm draws from a global generator, which is seeded for a client.
    """
    stack, first = _stack(federation, task, message, clients), clients[0].partition
    federation.network.restart()
    with watched(federation.config.seed, "client", task.server_round, first) as drawn:
        trained = federation.algorithms.of_stack(first).train(stack)
    if drawn.names and len(clients) > 1:
        never_stack(federation, f"draws from the global generator of {' and '.join(drawn.names)}")
        one = partial(_train_stack, federation, task, message)
        return [models for client in clients for models in one([client])]
    layout, losses, kept = federation.network.layout, trained.losses, dict[str, Tensor]()
    if federation.private:
        own = kept[VALUES] = take(federation.private, stack.block, stack.start).cpu()
        broken = ~own.isfinite().all(1)  # of which the server sees nothing but such a loss
        losses = losses.cpu().masked_fill(broken, nan)
    _store(layout, clients, trained.client_state, kept)
    numbers = {LOSS: losses} | trained.metrics
    metrics = {name: value.tolist() for name, value in numbers.items()}
    return [Models(clients, stack.block, metrics, trained.sends)]


def _stack(
    federation: Federation, task: TrainTask, message: Message, clients: Sequence[Client]
) -> Stack:
    """Return all that an algorithm needs to train these clients as one."""
    network, config = federation.network, federation.config
    start = network.receive(arrays_of(message))
    partitions = [client.partition for client in clients]
    data, rows = federation.examples.seen(
        clients[0].num_clients, partitions, [client.rows for client in clients]
    )
    extras = message.content.array_records.get(EXTRA)
    return Stack(
        network=network,
        data=data,
        start=start,
        block=_starts(federation, task, start, clients),
        rows=rows,
        streams=rngs(config.seed, "batches", task.server_round, last=partitions),
        plans=[client.plan for client in clients],
        server_round=task.server_round,
        rounds=config.rounds,
        received=_tensors(network, extras),
        client_states=[_tensors(network, client.state()) for client in clients],
        private=federation.private.mask().to(network.device) if federation.private else None,
        algorithms=_algorithms(federation, partitions),
    )


def _algorithms(federation: Federation, partitions: Sequence[int]) -> list[ClientAlgorithm]:
    """Return the algorithm of each client of a stack; empty if it is that of the stack."""
    own, common = federation.algorithms, federation.algorithms.of_stack(partitions[0])
    found = list(map(own.of, partitions))
    return [] if all(one is common for one in found) else found


def _starts(
    federation: Federation, task: TrainTask, start: Tensor, clients: Sequence[Client]
) -> Tensor:
    """Return where each client starts, `(K, F)`: with `init: own` they share fixed weights only."""
    block, private = start.repeat(len(clients), 1), federation.private
    own, first = federation.config.init == "own", task.server_round == 1
    if not private and not (own and first):
        return block
    for row, client in zip(block, clients, strict=True):
        state = client.state() if private else None
        if own and first:
            row.copy_(federation.own_start(client.partition))
        if private:
            row.copy_(own_model(federation, row, state, client.partition))
        if own and (first or (private and VALUES not in (state or ()))):
            mask = trainable_mask(client.plan, federation.network.layout)
            if mask is not None:
                fixed = ~mask.to(row.device)
                row[: len(mask)][fixed] = start[: len(mask)][fixed]
    return block


def _tensors(network: Network, record: ArrayRecord | None) -> dict[str, Tensor]:
    """Return the arrays of a record, with padding, on the network's device."""
    if not record:
        return {}
    found = {key: array for key, array in record.items() if key != VALUES}
    tensors = {key: torch.from_numpy(array.numpy()) for key, array in found.items()}
    return {key: network.layout.spread(t).to(network.device) for key, t in tensors.items()}


def _store(
    layout: Layout,
    clients: Sequence[Client],
    client_state: Mapping[str, Tensor],
    private: Mapping[str, Tensor],
) -> None:
    """Put what clients keep, `(K, …)` by name, into their contexts."""
    stored = {key: layout.compact(rows).cpu().numpy() for key, rows in client_state.items()}
    stored |= {key: rows.numpy() for key, rows in private.items()}
    for k, client in enumerate(clients if stored else ()):
        state = {key: LazyArray(rows[k].copy()) for key, rows in stored.items()}
        client.contexts[client.place].state[STATE] = record_of(state)
