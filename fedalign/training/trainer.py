"""A round of clients at work: what they are told and own becomes stacks, and those are trained."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Context, Message
from torch import Tensor

from fedalign.algorithm import Stack, Trained
from fedalign.federation.federation import Federation, place_of
from fedalign.masks.phases import trainable_mask
from fedalign.messages.records import EXTRA, TrainTask, arrays_of
from fedalign.network.network import Network
from fedalign.rng import rng

STATE = "fedalign"  # what a client keeps between rounds, in its Context
log = logging.getLogger("fedalign")


@dataclass(frozen=True)
class Client:
    """One of the clients that are trained in one call: its place there, and what it has."""

    place: int
    partition: int
    rows: np.ndarray
    context: Context


@dataclass(frozen=True)
class Model:
    """What comes of a client: its model `(F,)` and what it tells of it."""

    client: Client
    vector: Tensor
    metrics: dict[str, float]
    sends: dict[str, Tensor]


def train(
    federation: Federation,
    task: TrainTask,
    messages: Sequence[Message],
    contexts: Sequence[Context],
    stack: int,
) -> Iterator[Model]:
    """Yield every client's model, those with most examples first."""
    clients = []
    for place, context in enumerate(contexts):
        partition, count = place_of(context)
        rows = federation.held(partition, count).trained
        clients.append(Client(place, partition, rows, context))
    clients.sort(key=lambda client: -len(client.rows))
    for start in range(0, len(clients), stack):
        yield from _train_stack(federation, task, messages[0], clients[start : start + stack])


def _train_stack(
    federation: Federation, task: TrainTask, message: Message, clients: Sequence[Client]
) -> list[Model]:
    """Return the trained models of a stack; in halves if the GPU has no room."""
    count = len(clients)
    if count <= federation.room:
        try:
            stack = _stack(federation, task, message, clients)
            return _models(clients, stack.block, federation.client.train(stack))
        except torch.OutOfMemoryError:
            if count == 1:
                raise
        federation.room = count // 2
        log.warning("the GPU has no room for a stack of %d; next try: %d", count, count // 2)
        torch.cuda.empty_cache()
    halves = clients[: -(-count // 2)], clients[-(-count // 2) :]
    return [m for half in halves for m in _train_stack(federation, task, message, half)]


def _stack(
    federation: Federation, task: TrainTask, message: Message, clients: Sequence[Client]
) -> Stack:
    """Return what clients need to train as one."""
    network, config = federation.network, federation.config
    number = task.server_round
    extras: dict[str, Array] = dict(message.content.array_records.get(EXTRA) or {})
    start = network.receive(arrays_of(message))
    _, count = place_of(clients[0].context)
    owned = [client.rows for client in clients]
    data, rows = federation.seen(count, [client.partition for client in clients], owned)
    return Stack(
        network=network,
        data=data,
        start=start,
        block=_starts(federation, task, start, clients),
        rows=rows,
        streams=[rng(config.seed, "batches", number, client.partition) for client in clients],
        plans=[task.plan.of(client.partition) for client in clients],
        server_round=number,
        rounds=config.rounds,
        received={key: _tensor(network, array) for key, array in extras.items()},
        kept=[
            {key: _tensor(network, array) for key, array in _kept(client.context).items()}
            for client in clients
        ],
    )


def _starts(
    federation: Federation, task: TrainTask, start: Tensor, clients: Sequence[Client]
) -> Tensor:
    """Return where each client starts, `(K, F)`: with `init: own` they share what is fixed."""
    block = start.repeat(len(clients), 1)
    if federation.config.init == "own" and task.server_round == 1:
        for row, client in zip(block, clients, strict=True):
            mask = trainable_mask(task.plan.of(client.partition), federation.network.layout)
            own = federation.own_start(client.partition)
            if mask is not None:
                fixed = ~mask.to(own.device)
                own[: len(mask)][fixed] = start[: len(mask)][fixed]
            row.copy_(own)
    return block


def _kept(context: Context) -> ArrayRecord:
    """Return what a client kept of earlier rounds."""
    return context.state.array_records.get(STATE) or ArrayRecord()


def _tensor(network: Network, array: Array) -> Tensor:
    return torch.from_numpy(array.numpy()).to(network.device)


def _models(clients: Sequence[Client], block: Tensor, result: Trained) -> list[Model]:
    """Return each client's part of what was trained; what it keeps goes into its context."""
    models = []
    told = {"train_loss": result.losses} | result.metrics
    for k, client in enumerate(clients):
        if result.keeps:
            kept = {key: Array(value[k].cpu().numpy()) for key, value in result.keeps.items()}
            client.context.state[STATE] = ArrayRecord(kept)
        metrics = {key: float(value[k]) for key, value in told.items()}
        sends = {key: value[k] for key, value in result.sends.items()}
        models.append(Model(client, block[k], metrics, sends))
    return models
