"""The ClientApp: what a client does with a train or an evaluate message."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp.mod import adaptiveclipping_mod
from flwr.clientapp.typing import ClientAppCallable
from flwr.supercore.differential_privacy import KEY_CLIPPING_NORM
from torch import Tensor

from fedalign.arrays import num_bytes
from fedalign.cohorts import Answers, CohortApp, RunConfig, Wanted, mark
from fedalign.federation import Federation, federation_of
from fedalign.masks import MaskPlan, trained
from fedalign.network import Network, torch_threads
from fedalign.rng import rng
from fedalign.training import Cohort, Trained
from fedalign.wire import EXTRA, Codec, TrainTask, arrays_of, evaluate_reply, round_of, train_reply

STATE = "fedalign"  # what a client keeps between rounds, in its Context
log = logging.getLogger("fedalign")


class App(CohortApp):
    """What fedalign's own engines may ask beside what Flower asks."""

    def train_many(
        self, messages: Sequence[Message], contexts: Sequence[Context], wanted: Wanted
    ) -> Answers:
        """Return the models of several clients, or their mean, after training in cohorts."""
        federation = federation_of(contexts[0].run_config)
        if TrainTask.read(messages[0]).clipped and len(messages) > 1:
            raise NotImplementedError("Flower clips the updates of one client after the other")
        models = _train(federation, messages, contexts, wanted.cohort)
        sender = Sender.of(federation, messages[0])
        if wanted.fuse:
            return _mean(sender, messages, models, wanted.keep)
        return _each(sender, messages, models)

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


def clip(message: Message, context: Context, call_next: ClientAppCallable) -> Message:
    """Return a reply whose update Flower's own mod has clipped, where the server wants it so."""
    if KEY_CLIPPING_NORM in message.content.config_records.get("config", {}):
        return adaptiveclipping_mod(message, context, call_next)  # a fixed norm is clipped alike
    return call_next(message, context)


app = App(mods=[clip])


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
    stream = rng(federation.config.seed, "finetune", server_round, partition)
    cohort = Cohort(
        federation.network,
        federation.train,
        model.repeat(1, 1),
        [rows],
        [stream],
        [MaskPlan()],
        server_round,
        federation.config.rounds,
    )
    federation.tuner.train(cohort)
    return cohort.block[0]


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


def _train(
    federation: Federation, messages: Sequence[Message], contexts: Sequence[Context], cohort: int
) -> Iterator[Model]:
    """Yield every client's model, those with most examples first."""
    task, shards = TrainTask.read(messages[0]), _shards(federation, contexts[0])
    clients = []
    for place, context in enumerate(contexts):
        partition = int(context.node_config["partition-id"])
        clients.append(Client(place, partition, shards[partition], context))
    clients.sort(key=lambda client: -len(client.rows))
    for start in range(0, len(clients), cohort):
        yield from _train_cohort(federation, task, messages[0], clients[start : start + cohort])


def _shards(federation: Federation, context: Context) -> list[np.ndarray]:
    return federation.shards(int(context.node_config["num-partitions"]))


def _train_cohort(
    federation: Federation, task: TrainTask, message: Message, clients: Sequence[Client]
) -> list[Model]:
    """Return the trained models of a cohort; in halves if the GPU has no room."""
    count = len(clients)
    if count <= federation.room:
        try:
            cohort = _cohort(federation, task, message, clients)
            return _models(clients, cohort.block, federation.client.train(cohort))
        except torch.OutOfMemoryError:
            if count == 1:
                raise
        federation.room = count // 2
        log.warning("the GPU has no room for a cohort of %d; next try: %d", count, count // 2)
        torch.cuda.empty_cache()
    halves = clients[: -(-count // 2)], clients[-(-count // 2) :]
    return [m for half in halves for m in _train_cohort(federation, task, message, half)]


def _cohort(
    federation: Federation, task: TrainTask, message: Message, clients: Sequence[Client]
) -> Cohort:
    """Return what clients need to train as one."""
    network, config = federation.network, federation.config
    number = task.server_round
    extras: dict[str, Array] = dict(message.content.array_records.get(EXTRA) or {})
    return Cohort(
        network=network,
        data=federation.train,
        block=network.receive(arrays_of(message)).repeat(len(clients), 1),
        rows=[client.rows for client in clients],
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


@dataclass(frozen=True)
class Sender:
    """Puts the clients' models into replies."""

    codec: Codec
    plan: MaskPlan
    start: Tensor
    counters: dict[str, Array]
    clipped: bool

    @classmethod
    def of(cls, federation: Federation, message: Message) -> Sender:
        """Return what the replies to a message need."""
        arrays, task = arrays_of(message), TrainTask.read(message)
        counters = federation.network.layout.counters_of(arrays)
        start = federation.network.receive(arrays)
        return cls(federation.codec, task.plan, start, counters, task.clipped)

    def pack(self, vector: Tensor, partition: int | None = None) -> ArrayRecord:
        """Return a client's model as it is sent, or the mean of several clients'."""
        if self.clipped:
            return self.codec.layout.to_record(vector, self.counters)
        return self.codec.pack(vector, self.start, self.mask(partition), self.counters)

    def mask(self, partition: int | None) -> Tensor | None:
        """Return what a client may have trained."""
        plan = self.plan if partition is None else self.plan.of(partition)
        return None if self.clipped else trained(plan, self.codec.layout)


def _each(sender: Sender, messages: Sequence[Message], models: Iterable[Model]) -> Answers:
    """Return a reply for each client."""
    replies: dict[int, Message] = {}
    for model in models:
        client = model.client
        mask = sender.mask(client.partition)
        extras = {key: sender.codec.pack_extra(v, mask) for key, v in model.sends.items()}
        packed = sender.pack(model.vector, client.partition)
        replies[client.place] = train_reply(
            messages[client.place], packed, len(client.rows), model.metrics, extras
        )
    return Answers([replies[place] for place in range(len(messages))])


def _mean(
    sender: Sender, messages: Sequence[Message], models: Iterable[Model], keep: frozenset[int]
) -> Answers:
    """Return one reply for all clients: their mean, summed in float64 in a fixed order."""
    layout = sender.codec.layout
    total = torch.zeros(layout.size, dtype=torch.float64, device=sender.start.device)
    total_loss, count = 0.0, 0
    kept: dict[int, ArrayRecord] = {}
    for model in models:
        client = model.client
        examples, node = len(client.rows), messages[client.place].metadata.dst_node_id
        total.add_(model.vector, alpha=examples)
        total_loss, count = total_loss + model.metrics["train_loss"] * examples, count + examples
        if node in keep:
            kept[node] = sender.pack(model.vector, client.partition)
    mean = sender.pack((total / count).float())
    reply = train_reply(messages[0], mean, count, {"train_loss": total_loss / count})
    mark(reply, len(messages), len(messages) * num_bytes(mean))
    return Answers([reply], kept)
