"""The records in messages: the global model and a `TrainTask` down, a model and metrics up.

They are plain Flower records under Flower's default keys, so that every Flower strategy can
aggregate them and every mod can read them. What algorithms send beside the model, such as control
variates, goes into a record of its own, `EXTRA`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from reprlib import repr as short  # a server may write something long
from typing import cast

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.supercore.differential_privacy import KEY_CLIPPING_NORM
from pydantic import TypeAdapter, ValidationError

from fedalign.masks.plan import MaskPlan
from fedalign.messages.copies import records_in
from fedalign.network.arrays import num_bytes, record_of

METRICS = "metrics"
LOSS = "train_loss"  # among the metrics of a reply
EXTRA = "extra"
STATE = "fedalign"  # a client's state in its context; in messages to real nodes, its digest
_PREFIX = "mask-"
_PLAN = TypeAdapter(MaskPlan)


@dataclass(frozen=True)
class TrainTask:
    """What a client must know, beside the global model and the run's configuration.

    Attributes:
        server_round: from 1.
        plan: the round's mask plan.
        clipped: Flower's differential-privacy mod clips the reply, which must hold a whole model.
    """

    server_round: int
    plan: MaskPlan
    clipped: bool = False

    @classmethod
    def read(cls, message: Message) -> TrainTask:
        """Return the task in a message; `ValueError` if its mask plan is not valid."""
        config = cast(ConfigRecord, message.content["config"])
        plan_fields = {k.removeprefix(_PREFIX): config[k] for k in config if k.startswith(_PREFIX)}
        try:
            plan = _PLAN.validate_python(plan_fields)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise ValueError(
                f"not a mask plan this client knows: {place} {short(first['input'])}"
            ) from None
        return cls(cast(int, config["server-round"]), plan, KEY_CLIPPING_NORM in config)


def write_plan(plan: MaskPlan, config: ConfigRecord) -> None:
    """Write a mask plan into the configuration of a message, without fields that have defaults."""
    for field in fields(plan):
        value = getattr(plan, field.name)
        if value != field.default:
            config[_PREFIX + field.name] = value


def arrays_of(message: Message) -> ArrayRecord:
    """Return the model in a message, down or up."""
    return cast(ArrayRecord, message.content["arrays"])


def train_reply(
    message: Message,
    arrays: ArrayRecord,
    num_examples: int,
    metrics: Mapping[str, float],
    extras: Mapping[str, Array] | None = None,
) -> Message:
    """Return the reply to a train message: the client's model, its weight and its metrics."""
    record = MetricRecord({"num-examples": num_examples, **metrics})
    content = RecordDict({"arrays": arrays, METRICS: record})
    if extras:
        content[EXTRA] = record_of(extras)
    return Message(content, reply_to=message)


def round_of(message: Message) -> int:
    """Return the round that a message from the server belongs to."""
    return cast(int, cast(ConfigRecord, message.content["config"])["server-round"])


def evaluate_reply(message: Message, num_examples: int, measured: Mapping[str, float]) -> Message:
    """Return the reply to an evaluate message."""
    metrics = MetricRecord({"num-examples": num_examples, **measured})
    return Message(RecordDict({METRICS: metrics}), reply_to=message)


def with_content(message: Message, content: RecordDict) -> Message:
    """Return an instruction that differs in its content only."""
    sent = message.metadata
    return Message(
        content, sent.dst_node_id, sent.message_type, ttl=sent.ttl, group_id=sent.group_id
    )


def size_of(message: Message) -> int:
    """Return the size of all arrays in a message, in bytes."""
    return sum(num_bytes(record) for record in records_in(message.content, ArrayRecord).values())


def total_size_of(messages: Sequence[Message]) -> int:
    """Return the size of all arrays in messages, in bytes; it is counted once for each content."""
    different = {id(message.content): message for message in messages}
    sizes = {key: size_of(message) for key, message in different.items()}
    return sum(sizes[id(message.content)] for message in messages)
