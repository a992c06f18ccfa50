"""What clients answer: each its own model, or one reply with the mean of all."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, reduce
from math import inf, isfinite
from operator import add, mul

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, Message, RecordDict
from torch import Tensor

from fedalign.federation.federation import Federation
from fedalign.masks.plan import MaskPlan
from fedalign.messages.codec import Codec
from fedalign.messages.copies import node_of
from fedalign.messages.groups import GroupReplies, GroupRequest
from fedalign.messages.partial_sums import Mark, empty_sum, put_mark
from fedalign.messages.records import LOSS, TrainTask, arrays_of, train_reply
from fedalign.messages.validation import (
    MAX_GROWTH,
    VARIANCE,
    check_buffer,
    check_finite,
    check_norm,
    check_numbers,
)
from fedalign.network.arrays import num_bytes
from fedalign.network.flat import HOST, MANY
from fedalign.network.layout import Layout
from fedalign.training.trainer import Models

PART = 64  # models that are summed at once on a GPU


@dataclass(frozen=True)
class Sender:
    """Encodes models for the way to the server.

    Attributes:
        codec: how models travel.
        start: the global model `(F,)` that the clients started from.
        counters: integer buffers of that model, which go back as they came.
        clipped: Flower's clipping of updates looks at the reply, so a model travels whole.
    """

    codec: Codec
    start: Tensor
    counters: dict[str, Array]
    clipped: bool

    @classmethod
    def of(cls, federation: Federation, task: TrainTask, message: Message) -> Sender:
        """Return the sender of the replies to a message."""
        arrays = arrays_of(message)
        counters = federation.network.layout.counters_of(arrays)
        return cls(federation.codec, federation.network.receive(arrays), counters, task.clipped)

    def mask(self, plan: MaskPlan) -> Tensor | None:
        """Return which parameters `(P,)` of a client with this plan travel; None: all of them."""
        return None if self.clipped else self.codec.mask(plan)

    def pack(self, vector: Tensor, mask: Tensor | None) -> ArrayRecord:
        """Return the record of a model `(F,)`."""
        if self.clipped:
            return self.codec.layout.to_record(vector, self.counters)
        return self.codec.pack(vector, self.start, mask, self.counters)

    def pack_beside(self, vector: Tensor, mask: Tensor | None, models: int) -> ArrayRecord:
        """Return the record of one of some models that are wanted beside their mean.

        One that has been checked here, and may never leave the device.
        """
        layout = self.codec.layout
        if self.codec.half or vector.device == HOST or models * layout.size > MANY:
            return self.pack(vector, mask)
        return layout.to_record(vector, self.counters)


def each(sender: Sender, messages: Sequence[Message], stacks: Iterable[Models]) -> GroupReplies:
    """Return one reply for each client, in the order of their messages."""
    replies: dict[int, Message] = {}
    for models in stacks:
        block, sends = models.block.cpu(), {key: v.cpu() for key, v in models.sends.items()}
        for k, client in enumerate(models.clients):
            mask = sender.mask(client.plan)
            packed = sender.pack(block[k], mask)
            extras = {key: sender.codec.pack_extra(rows[k], mask) for key, rows in sends.items()}
            replies[client.place] = train_reply(
                messages[client.place], packed, len(client.rows), _metrics(models, k), extras
            )
    return GroupReplies([replies[place] for place in range(len(messages))])


def mean(
    sender: Sender,
    plan: MaskPlan,
    messages: Sequence[Message],
    stacks: Iterable[Models],
    request: GroupRequest,
) -> GroupReplies:
    """Return one reply for all clients: their mean, weighted by examples.

    It is summed in float64 in a fixed order. A client whose numbers cannot be used is left out, and
    the reply says so.

    Args:
        sender: encodes the mean.
        plan: the mask plan of all clients.
        messages: the clients' messages.
        stacks: their models, in any order that is always the same.
        request: which models are wanted beside the mean, and how far a model may have moved.
    """
    total, mask = _Total(torch.zeros_like(sender.start, dtype=torch.float64)), sender.mask(plan)
    beside, left_out = dict[int, ArrayRecord](), dict[int, str]()
    losses: dict[int, float] = {}
    for models in stacks:
        flaws = _flaws(sender, models, request.max_update_norm)
        total.add(models, [k for k, flaw in enumerate(flaws) if flaw is None])
        for k, (client, flaw) in enumerate(zip(models.clients, flaws, strict=True)):
            node = node_of(messages[client.place])
            if flaw is not None:
                left_out[node] = flaw
                continue
            losses[node] = models.metrics[LOSS][k]
            if node in request.models_of:
                beside[node] = sender.pack_beside(models.block[k], mask, len(request.models_of))
    count = total.examples
    packed = sender.pack((total.vector / count).float() if count else sender.start, mask)
    marked = Mark(len(messages), len(messages) * num_bytes(packed), left_out, losses)
    if not count:
        return GroupReplies([empty_sum(Message(RecordDict(), reply_to=messages[0]), marked)])
    means = {key: value / count for key, value in total.metrics.items()}
    reply = train_reply(messages[0], packed, count, means)
    put_mark(reply, marked)
    return GroupReplies([reply], beside)


def _metrics(models: Models, k: int) -> dict[str, float]:
    """Return the numbers of one client."""
    return {key: values[k] for key, values in models.metrics.items()}


@dataclass
class _Total:
    """Sums of models `(F,)` float64 and of their metrics, weighted by examples."""

    vector: Tensor
    examples: int = 0
    metrics: dict[str, float] = field(default_factory=dict)

    def add(self, models: Models, rows: Sequence[int]) -> None:
        """Add some of a stack's models: one by one on a CPU, in a few launches on a GPU."""
        counts = [len(models.clients[k].rows) for k in rows]
        if models.block.device.type == "cpu":
            for k, examples in zip(rows, counts, strict=True):
                self.vector.add_(models.block[k], alpha=examples)
        else:
            weights = torch.zeros(len(models.block), dtype=torch.float64)
            weights[list(rows)] = torch.tensor(counts, dtype=torch.float64)
            weights = weights.to(models.block.device)
            for block, own in zip(
                *(torch.split(t, PART) for t in (models.block, weights)), strict=True
            ):
                self.vector += own @ torch.where(own[:, None] > 0, block, 0).double()
        self.examples += sum(counts)
        for key, values in models.metrics.items():
            own = map(mul, (values[k] for k in rows), counts)
            self.metrics[key] = reduce(add, own, self.metrics.get(key, 0.0))


def _flaws(sender: Sender, models: Models, max_update_norm: float | None) -> list[str | None]:
    """Return for each model why it cannot be summed; None if it can.

    The device is asked once, for bounds that are easy to compute; a model outside of them is looked
    at in detail.
    """
    layout, block, start = sender.codec.layout, models.block, sender.start
    # Who cannot have moved too far, however far apart start and end point, need not be measured.
    moved = torch.linalg.vector_norm(block, dim=1) + torch.linalg.vector_norm(start)
    rows = [moved, _out_of_bounds(layout, block)] if layout.buffers else [moved]
    distances, *strange = torch.stack(rows).tolist()
    pairs = zip(distances, *strange, strict=True)
    plain = [isfinite(farthest) and not any(found) for farthest, *found in pairs]
    limit = inf if max_update_norm is None else max_update_norm
    if not all(own <= limit for own in distances):
        changes = (block - start)[:, : layout.parameter_size]
        distances = torch.linalg.vector_norm(changes, dim=1).tolist()
    known = np.logical_and.reduce(np.isfinite([*models.metrics.values()])).tolist()
    if all(known) and all(plain) and max(distances) <= limit:
        return [None] * len(block)

    def flaw(k: int) -> str | None:
        if known[k] and plain[k] and distances[k] <= limit:
            return None
        try:
            check_numbers(_metrics(models, k))
            if not plain[k]:
                _check_model(layout, block[k].cpu(), start.cpu())
            check_norm(distances[k], max_update_norm)
        except ValueError as error:
            return str(error)
        return None

    return list(map(flaw, range(len(block))))


def _out_of_bounds(layout: Layout, block: Tensor) -> Tensor:
    """Return how many buffers of each model `(K, F)` may be out of bounds, `(K,)`."""
    buffers = block[:, layout.parameter_size :]
    least = _least(layout, block.device)
    return ((buffers < least) | (buffers > MAX_GROWTH)).sum(1, dtype=block.dtype)


@lru_cache(maxsize=4)
def _least(layout: Layout, device: torch.device) -> Tensor:
    """Return the least value that each buffer may have, whatever the clients were sent."""
    least = torch.full([layout.size], -MAX_GROWTH)
    for entry in layout.buffers:
        if entry.name.endswith(VARIANCE):
            entry.view(least).zero_()
    return least[layout.parameter_size :].to(device)


def _check_model(layout: Layout, model: Tensor, sent: Tensor) -> None:
    """Raise `ValueError` for a tensor of a model `(F,)` that is not finite or out of bounds."""
    for entry in layout.parameters:
        check_finite(entry.name, entry.view(model).numpy())
    for entry in layout.buffers:
        check_buffer(entry.name, entry.view(model).numpy(), entry.view(sent).numpy())
