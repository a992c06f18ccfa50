"""Encode the global model for its way to the clients, and decode each reply once."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from math import sqrt
from reprlib import repr as short
from typing import Any, NamedTuple

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from torch import Tensor

from fedalign.masks.plan import MaskPlan
from fedalign.messages.codec import FLOATS, Codec
from fedalign.messages.copies import node_of, records_in, unchecked
from fedalign.messages.records import EXTRA, METRICS, TrainTask, arrays_of, with_content
from fedalign.messages.rules import ReplyRules, square_of, update_limit
from fedalign.messages.validation import (
    arrays_in,
    check_finite,
    check_record,
    check_update,
    metrics_in,
    values_of,
)
from fedalign.network.arrays import record_of
from fedalign.network.flat import HOST, flat_of


def encode(messages: Sequence[Message], codec: Codec | None) -> list[Message]:
    """Return train messages as they travel; messages that share a content still share one.

    Args:
        messages: one for each client; they stay as they are.
        codec: how models travel; None: as they are.
    """
    if codec is None or not codec.half:
        return list(messages)
    contents: dict[int, RecordDict] = {}
    for message in messages:
        if id(message.content) not in contents:
            content = RecordDict(dict(message.content))
            content["arrays"] = codec.shrink(arrays_of(message))
            contents[id(message.content)] = content
    return [with_content(message, contents[id(message.content)]) for message in messages]


class _Sent(NamedTuple):
    """What a client was sent: the global model as the server has it, and the round's mask plan."""

    arrays: ArrayRecord
    plan: MaskPlan


class ReplyDecoder:
    """Decodes the replies to the train messages of a round, and refuses what cannot be used.

    Args:
        messages: the round's, before they were encoded.
        codec: how models travel; None: as they are.
        max_update_norm: how far a client's model may move, see `Config.max_update_norm`.
        rules: what the strategy needs of a reply; None: what comes beside the model is passed on.
    """

    def __init__(
        self,
        messages: Iterable[Message],
        codec: Codec | None,
        max_update_norm: float | None = None,
        rules: ReplyRules | None = None,
    ):
        self._codec, self._max_update_norm, self._rules = codec, max_update_norm, rules
        self._sent: dict[int, _Sent] = {}  # by node
        self._limits: dict[int, float] = {}  # by model, which `_sent` holds
        sent: dict[int, _Sent] = {}  # by content
        for message in messages:
            key = id(message.content)
            if key not in sent:
                plan = TrainTask.read(message).plan if codec else MaskPlan()
                sent[key] = _Sent(arrays_of(message), plan)
            self._sent[node_of(message)] = sent[key]

    def decode(self, reply: Message, partition: int, summed: bool = False) -> RecordDict:
        """Return the content that a reply stands for: whole arrays under their usual names.

        Args:
            reply: stays as it is.
            partition: of the client that sent it.
            summed: it is the mean of several clients' models, whose norm is not limited.

        Raises:
            ValueError: the reply cannot be used; says why.
        """
        extras = [EXTRA] if self._rules is None or self._rules.arrays else []
        return self._decode(reply, partition, summed, extras)

    def flaw(self, reply: Message, partition: int) -> str | None:
        """Return why a reply cannot be part of a sum of models; None if it can."""
        try:
            self._decode(reply, partition, summed=False, extras=[])
        except ValueError as error:
            return str(error)
        return None

    def model(self, arrays: ArrayRecord, node: int, partition: int) -> ArrayRecord:
        """Return the model that a client's arrays stand for; `ValueError` if there is none.

        One that is on a GPU of this process was checked there.
        """
        flat = flat_of(arrays, self._codec.layout) if self._codec else None
        if flat is not None and flat.device != HOST:
            return arrays
        sent = self._sent[node]
        return self._model(arrays, sent, self._mask(sent, partition), summed=False)

    def _decode(
        self, reply: Message, partition: int, summed: bool, extras: Collection[str]
    ) -> RecordDict:
        content, sent = reply.content, self._sent[reply.metadata.src_node_id]
        metrics, rules = metrics_in(content), self._rules
        if rules and not summed:
            rules.check_metrics(metrics, partition)
        arrays = arrays_in(content, "arrays", others=extras)
        mask = self._mask(sent, partition)
        model = self._model(arrays, sent, mask, summed)
        decoded: dict[str, Any] = records_in(content, ConfigRecord)
        decoded |= {"arrays": model, METRICS: metrics}
        for name in [name for name in extras if name in content or (rules and rules.arrays)]:
            record = arrays_in(content, name, others=["arrays"])
            if rules:
                rules.check_arrays(record)
            limit = self._limit_of(sent.arrays)
            decoded[name] = record_of(
                {key: self._extra(key, array, mask, limit) for key, array in record.items()}
            )
        return unchecked(RecordDict, decoded)

    def _limit_of(self, arrays: ArrayRecord) -> float:
        """Return the largest norm of a vector beside a model; all clients were sent the same."""
        if id(arrays) not in self._limits:
            self._limits[id(arrays)] = update_limit(arrays)
        return self._limits[id(arrays)]

    def _mask(self, sent: _Sent, partition: int) -> Tensor | None:
        """Return the weights `(P,)` that a client's update can change, or None for all of them."""
        return self._codec.mask(sent.plan.of(partition)) if self._codec else None

    def _model(
        self, arrays: ArrayRecord, sent: _Sent, mask: Tensor | None, summed: bool
    ) -> ArrayRecord:
        codec, limit = self._codec, None if summed else self._max_update_norm
        if codec is None:
            return check_record(arrays, sent.arrays, limit, summed)
        model = codec.unpack(arrays, sent.arrays, mask, summed)
        check_update(model, sent.arrays, limit, {entry.name for entry in codec.layout.parameters})
        return model

    def _extra(self, name: str, array: Array, mask: Tensor | None, limit: float) -> Array:
        if self._codec:
            array = self._codec.unpack_extra(array, mask)
        values = values_of(EXTRA, array, FLOATS)
        check_finite(EXTRA, values)
        norm = sqrt(square_of(values.ravel()))
        if norm > limit:
            raise ValueError(f"{short(name)} has norm {norm:.6g}, and {limit:g} is the largest")
        return array
