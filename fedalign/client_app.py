"""The ClientApp: what a client does with a train or an evaluate message."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from torch import Tensor

from fedalign.cohorts import Answers, CohortApp, Wanted, mark
from fedalign.config import Scalar
from fedalign.federation import Federation, federation_of
from fedalign.network import torch_threads
from fedalign.parameters import num_bytes
from fedalign.rng import rng
from fedalign.wire import TrainTask, arrays_of, evaluate_reply, train_reply

app = CohortApp()
log = logging.getLogger("fedalign")

Client = tuple[int, np.ndarray]  # partition id, and which examples it owns


@app.train()
def train(message: Message, context: Context) -> Message:
    """Return the client's model after local training from the global one under the round's mask."""
    return train_many([message], [context], Wanted()).replies[0]


@app.train_many
def train_many(messages: Sequence[Message], contexts: Sequence[Context], wanted: Wanted) -> Answers:
    """Return the models of several clients, or their mean, after local training in cohorts."""
    federation, arrays = federation_of(contexts[0].run_config), arrays_of(messages[0])
    network, task = federation.network, TrainTask.read(messages[0])
    shards = federation.shards(int(contexts[0].node_config["num-partitions"]))
    partitions = [int(context.node_config["partition-id"]) for context in contexts]
    # Whoever has most examples first, as the client algorithm wants it.
    order = sorted(range(len(messages)), key=lambda i: -len(shards[partitions[i]]))
    counters = network.layout.counters_of(arrays)
    replies, total, loss, count = {}, torch.zeros(network.layout.size, dtype=torch.float64), 0.0, 0
    models: dict[int, ArrayRecord] = {}
    for start in range(0, len(order), wanted.cohort):
        cohort = order[start : start + wanted.cohort]
        clients = [(partitions[i], shards[partitions[i]]) for i in cohort]
        block, losses = _trained(federation, task, arrays, clients)
        for i, vector, own in zip(cohort, block.cpu(), losses.tolist(), strict=True):
            examples, node = len(shards[partitions[i]]), messages[i].metadata.dst_node_id
            if wanted.fuse:
                total.add_(vector, alpha=examples)
                loss, count = loss + own * examples, count + examples
                if node in wanted.keep:
                    models[node] = network.layout.to_record(vector, counters)
            else:
                model = network.layout.to_record(vector, counters)
                replies[i] = train_reply(messages[i], model, examples, own)
    if not wanted.fuse:
        return Answers([replies[i] for i in range(len(messages))])
    mean = network.layout.to_record((total / count).float(), counters)
    reply = train_reply(messages[0], mean, count, loss / count)
    mark(reply, len(messages), len(messages) * num_bytes(mean))
    return Answers([reply], models)


@app.client_sizes
def sizes(run_config: Mapping[str, Scalar], num_partitions: int) -> list[int]:
    """Return how many examples each client has."""
    return [len(rows) for rows in federation_of(run_config).shards(num_partitions)]


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Return the loss and accuracy of the global model on the client's own examples."""
    federation = federation_of(context.run_config)
    network, data, settings = federation.network, federation.train, federation.config.evaluation
    shards = federation.shards(int(context.node_config["num-partitions"]))
    rows = shards[int(context.node_config["partition-id"])]
    own = replace(data, images=data.images[rows], labels=data.labels[rows])
    vector = network.receive(arrays_of(message))
    with torch_threads(1):
        loss, accuracy = network.evaluate(vector, own, settings.batch_size)
    return evaluate_reply(message, len(rows), loss, accuracy)


@app.query("whoami")
def whoami(message: Message, context: Context) -> Message:
    """Return which partition this node holds, and of how many."""
    ids = MetricRecord()
    for key in ("partition-id", "num-partitions"):
        ids[key] = int(context.node_config[key])
    return Message(RecordDict({"whoami": ids}), reply_to=message)


def _trained(
    federation: Federation, task: TrainTask, arrays: ArrayRecord, clients: list[Client]
) -> tuple[Tensor, Tensor]:
    """Return the trained models `(K, F)` and their losses; in halves if the GPU has no room."""
    network, count = federation.network, len(clients)
    if count <= federation.room:
        block = network.receive(arrays).repeat(count, 1)
        rows, streams = [own for _, own in clients], [_stream(federation, task, c) for c in clients]
        try:
            losses = federation.client.train(
                network, block, federation.train, rows, task.plan, streams
            )
            return block, losses
        except torch.OutOfMemoryError:
            if count == 1:
                raise
        federation.room = count // 2
        log.warning("the GPU has no room for a cohort of %d; next try: %d", count, count // 2)
        torch.cuda.empty_cache()
    halves = clients[: -(-count // 2)], clients[-(-count // 2) :]
    blocks, losses = zip(*(_trained(federation, task, arrays, h) for h in halves), strict=True)
    return torch.cat(blocks), torch.cat(losses)


def _stream(federation: Federation, task: TrainTask, client: Client) -> np.random.Generator:
    return rng(federation.config.seed, "batches", task.server_round, client[0])
