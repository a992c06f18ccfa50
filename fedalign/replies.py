"""What clients answer: each its model, or all of them their mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from flwr.app import Array, ArrayRecord, Message
from torch import Tensor

from fedalign.arrays import num_bytes
from fedalign.cohorts import Answers, mark
from fedalign.federation import Federation
from fedalign.masks import MaskPlan, trained
from fedalign.trainer import Model
from fedalign.wire import Codec, TrainTask, arrays_of, train_reply


@dataclass(frozen=True)
class Sender:
    """Puts the clients' models into replies."""

    codec: Codec
    plan: MaskPlan
    start: Tensor
    counters: dict[str, Array]
    clipped: bool

    @classmethod
    def of(cls, federation: Federation, task: TrainTask, message: Message) -> Sender:
        """Return what the replies to a message need."""
        arrays = arrays_of(message)
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


def each(sender: Sender, messages: Sequence[Message], models: Iterable[Model]) -> Answers:
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


def mean(
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
