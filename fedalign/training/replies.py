"""What clients answer: each its model, or all of them their mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from flwr.app import Array, ArrayRecord, Message, RecordDict
from torch import Tensor

from fedalign.federation.federation import Federation
from fedalign.masks.phases import update_mask
from fedalign.masks.plan import MaskPlan
from fedalign.messages.codec import Codec
from fedalign.messages.groups import GroupReplies, GroupRequest
from fedalign.messages.partial_sums import Mark, mark, nobody
from fedalign.messages.records import TrainTask, arrays_of, train_reply
from fedalign.messages.validation import check_finite, check_norm, check_numbers
from fedalign.network.arrays import num_bytes
from fedalign.training.trainer import Model


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
        return None if self.clipped else update_mask(plan, self.codec.layout)


def each(sender: Sender, messages: Sequence[Message], models: Iterable[Model]) -> GroupReplies:
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
    return GroupReplies([replies[place] for place in range(len(messages))])


def mean(
    sender: Sender, messages: Sequence[Message], models: Iterable[Model], wanted: GroupRequest
) -> GroupReplies:
    """Return one reply for all clients: their mean, summed in float64 in a fixed order.

    Those whose numbers cannot be used are left out, and are told of.
    """
    layout = sender.codec.layout
    total = torch.zeros(layout.size, dtype=torch.float64, device=sender.start.device)
    told, count = dict[str, float](), 0
    kept, left_out = dict[int, ArrayRecord](), dict[int, str]()
    for model in models:
        client = model.client
        examples, node = len(client.rows), messages[client.place].metadata.dst_node_id
        if why := _flaw(sender, model, wanted.max_update_norm):
            left_out[node] = why
            continue
        total.add_(model.vector, alpha=examples)
        count += examples
        for key, value in model.metrics.items():
            told[key] = told.get(key, 0.0) + value * examples
        if node in wanted.keep:
            kept[node] = sender.pack(model.vector, client.partition)
    packed = sender.pack((total / count).float() if count else sender.start)
    marked = Mark(len(messages), len(messages) * num_bytes(packed), left_out)
    if not count:
        return GroupReplies([nobody(Message(RecordDict(), reply_to=messages[0]), marked)])
    means = {key: value / count for key, value in told.items()}
    reply = train_reply(messages[0], packed, count, means)
    mark(reply, marked)
    return GroupReplies([reply], kept)


def _flaw(sender: Sender, model: Model, most: float | None) -> str | None:
    """Return why a model cannot be summed; None if it can."""
    layout, vector = sender.codec.layout, model.vector
    try:
        check_numbers(model.metrics)
        if not torch.isfinite(torch.dot(vector, vector)):
            for entry in layout.entries:
                check_finite(entry.name, entry.view(vector).cpu().numpy())
        if most is not None:
            change = (vector - sender.start)[: layout.num_parameters]
            check_norm(float(torch.linalg.vector_norm(change)), most)
    except ValueError as error:
        return str(error)
    return None
