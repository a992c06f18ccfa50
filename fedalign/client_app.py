"""The ClientApp: what a client does with a train or an evaluate message."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from torch import Tensor

from fedalign.arrays import num_bytes
from fedalign.cohorts import Answers, CohortApp, RunConfig, Wanted, mark
from fedalign.federation import Federation, federation_of
from fedalign.masks import MaskPlan
from fedalign.network import Network, torch_threads
from fedalign.rng import rng
from fedalign.wire import TrainTask, arrays_of, evaluate_reply, round_of, train_reply

log = logging.getLogger("fedalign")


class App(CohortApp):
    """What fedalign's own engines may ask beside what Flower asks."""

    def train_many(
        self, messages: Sequence[Message], contexts: Sequence[Context], wanted: Wanted
    ) -> Answers:
        """Return the models of several clients, or their mean, after training in cohorts."""
        federation = federation_of(contexts[0].run_config)
        trained = _train(federation, messages, contexts, wanted.cohort)
        answer = _mean if wanted.fuse else _each
        return answer(federation.network, messages, trained, wanted)

    def sizes(self, run_config: RunConfig, num_partitions: int) -> list[float]:
        """Return how many examples each client has."""
        return [float(len(rows)) for rows in federation_of(run_config).shards(num_partitions)]

    def share(self, run_config: RunConfig) -> Any:
        """Return the training set."""
        return federation_of(run_config).shared()

    def adopt(self, run_config: RunConfig, num_partitions: int, shared: Any) -> None:
        """Take the training set, and make what the first round would make otherwise."""
        federation = federation_of(run_config)
        federation.adopt(shared)
        federation.shards(num_partitions)
        federation.network  # noqa: B018


app = App()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Return the client's model after local training from the global one under the round's mask."""
    return app.train_many([message], [context], Wanted()).replies[0]


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Return how the global model does on what the client keeps back, or else trains on.

    With `evaluation.finetune_epochs` also how it does after local fine-tuning (`tuned_…`).
    """
    federation = federation_of(context.run_config)
    count, partition = (int(context.node_config[k]) for k in ("num-partitions", "partition-id"))
    network, data, settings = federation.network, federation.train, federation.config.evaluation
    rows = federation.tested_on(count)[partition]
    own = replace(data, images=data.images[rows], labels=data.labels[rows])
    models = {"": network.receive(arrays_of(message))}
    if settings.finetune_epochs:
        mine = federation.shards(count)[partition]
        models["tuned_"] = _tuned(federation, models[""], mine, round_of(message), partition)
    measured: dict[str, float] = {}
    with torch_threads(1):
        for kind, model in models.items():
            loss, accuracy = network.evaluate(model, own, settings.batch_size)
            measured |= {f"{kind}loss": loss, f"{kind}accuracy": accuracy}
    return evaluate_reply(message, len(rows), measured)


@app.query("whoami")
def whoami(message: Message, context: Context) -> Message:
    """Return which partition this node holds, and of how many."""
    ids = MetricRecord()
    for key in ("partition-id", "num-partitions"):
        ids[key] = int(context.node_config[key])
    return Message(RecordDict({"whoami": ids}), reply_to=message)


def _tuned(
    federation: Federation, model: Tensor, rows: np.ndarray, server_round: int, partition: int
) -> Tensor:
    """Return a copy of the model `(F,)` after training on `rows`, in which all weights train."""
    network, data, block = federation.network, federation.train, model.repeat(1, 1)
    stream = rng(federation.config.seed, "finetune", server_round, partition)
    federation.tuner.train(network, block, data, [rows], MaskPlan(), [stream])
    return block[0]


@dataclass(frozen=True)
class Client:
    """One of the clients that are trained in one call: its place there, its part of the data."""

    place: int
    partition: int
    rows: np.ndarray


Trained = tuple[Client, Tensor, float]  # model (F,), and mean training loss


def _train(
    federation: Federation, messages: Sequence[Message], contexts: Sequence[Context], cohort: int
) -> Iterator[Trained]:
    """Yield every client's model, those with most examples first."""
    task, arrays = TrainTask.read(messages[0]), arrays_of(messages[0])
    shards = federation.shards(int(contexts[0].node_config["num-partitions"]))
    partitions = [int(context.node_config["partition-id"]) for context in contexts]
    clients = [Client(i, partition, shards[partition]) for i, partition in enumerate(partitions)]
    clients.sort(key=lambda client: -len(client.rows))
    for start in range(0, len(clients), cohort):
        together = clients[start : start + cohort]
        block, losses = _train_cohort(federation, task, arrays, together)
        yield from zip(together, block, losses.tolist(), strict=True)


def _train_cohort(
    federation: Federation, task: TrainTask, arrays: ArrayRecord, clients: Sequence[Client]
) -> tuple[Tensor, Tensor]:
    """Return the trained models `(K, F)` and their losses; in halves if the GPU has no room."""
    network, count, seed = federation.network, len(clients), federation.config.seed
    if count <= federation.room:
        block = network.receive(arrays).repeat(count, 1)
        rows = [client.rows for client in clients]
        streams = [rng(seed, "batches", task.server_round, client.partition) for client in clients]
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
    blocks, losses = zip(*(_train_cohort(federation, task, arrays, h) for h in halves), strict=True)
    return torch.cat(blocks), torch.cat(losses)


def _each(
    network: Network, messages: Sequence[Message], trained: Iterable[Trained], _: Wanted
) -> Answers:
    """Return a reply for each client."""
    layout, counters = network.layout, network.layout.counters_of(arrays_of(messages[0]))
    replies: dict[int, Message] = {}
    for client, vector, loss in trained:
        model, asked = layout.to_record(vector, counters), messages[client.place]
        replies[client.place] = train_reply(asked, model, len(client.rows), loss)
    return Answers([replies[place] for place in range(len(messages))])


def _mean(
    network: Network, messages: Sequence[Message], trained: Iterable[Trained], wanted: Wanted
) -> Answers:
    """Return one reply for all clients: their mean, summed in float64 in a fixed order."""
    layout, counters = network.layout, network.layout.counters_of(arrays_of(messages[0]))
    total = torch.zeros(layout.size, dtype=torch.float64, device=network.device)
    total_loss, count = 0.0, 0
    models: dict[int, ArrayRecord] = {}
    for client, vector, loss in trained:
        examples, node = len(client.rows), messages[client.place].metadata.dst_node_id
        total.add_(vector, alpha=examples)
        total_loss, count = total_loss + loss * examples, count + examples
        if node in wanted.keep:
            models[node] = layout.to_record(vector, counters)
    mean = layout.to_record((total / count).float(), counters)
    reply = train_reply(messages[0], mean, count, total_loss / count)
    mark(reply, len(messages), len(messages) * num_bytes(mean))
    return Answers([reply], models)
