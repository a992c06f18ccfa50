"""Copies of Flower's messages, which cost less than new ones that Flower checks anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

T = TypeVar("T")
KINDS: tuple[type[Any], ...] = (RecordDict, ArrayRecord, MetricRecord, ConfigRecord)
_CHECKS: dict[type, dict[str, Any]] = {kind: vars(kind()) for kind in KINDS}


def private_copy(message: Message) -> Message:
    """Return a copy of a message whose changes do not affect the original.

    Records, lists and Arrays are copied; the bytes inside an Array are immutable and shared. So a
    model that is sent to a thousand clients is in memory once.
    """
    fields, content = dict(vars(message)), message.__dict__["_content"]
    fields["_metadata"] = made(type(message.metadata), vars(message.metadata))
    if content is not None:
        fields["_content"] = copy_of(content)
    return made(type(message), fields)


def copy_of(content: RecordDict) -> RecordDict:
    """Return a copy of records whose changes do not affect the original."""
    records = {name: _copy(record) for name, record in items_of(content).items()}
    return unchecked(RecordDict, records)


def made(kind: type[T], fields: Mapping[str, Any]) -> T:
    """Return an object with these attributes, without a call of its class."""
    new = kind.__new__(kind)
    new.__dict__.update(fields)
    return new


def unchecked(kind: type[T], items: dict[str, Any]) -> T:
    """Return one of Flower's records, or a `RecordDict`, that holds `items` itself."""
    return made(kind, {**_CHECKS[kind], "_data": items})


def items_of(record: Any) -> dict[str, Any]:
    """Return what one of Flower's records, or a `RecordDict`, holds: not a copy of it."""
    items: dict[str, Any] = record.__dict__["_data"]
    return items


def with_content(message: Message, content: RecordDict | None) -> Message:
    """Return a copy of a message with other content; None makes an envelope without content."""
    return made(type(message), {**vars(message), "_content": content})


def records_in(content: RecordDict, kind: type[T]) -> dict[str, T]:
    """Return the records of one kind, by name.

    Flower's `array_records` and the like cost more, and make a cycle of references: what is in the
    content stays in memory until Python next collects garbage.
    """
    return {name: rec for name, rec in items_of(content).items() if isinstance(rec, kind)}


def for_nodes(content: RecordDict, nodes: Sequence[int], message_type: str) -> list[Message]:
    """Return a new message with this content for each node; Flower checks the first of them."""
    messages = [Message(content, node, message_type) for node in nodes[:1]]
    if not messages:
        return messages
    envelope, sent, kind = vars(messages[0]), messages[0].metadata, type(messages[0].metadata)
    for node in nodes[1:]:
        metadata = made(kind, {**vars(sent), "_dst_node_id": node})
        messages.append(made(Message, {**envelope, "_metadata": metadata}))
    return messages


def node_of(message: Message) -> int:
    """Return the node that a message goes to: its `metadata.dst_node_id`, but quickly."""
    node: int = message.__dict__["_metadata"].__dict__["_dst_node_id"]
    return node


def _copy(record: Any) -> Any:
    """Return a copy of a record whose lists and Arrays are copies too."""
    twin = record.copy()
    items = items_of(twin)
    for key, value in items.items():
        if isinstance(value, Array):
            items[key] = made(type(value), vars(value))
        elif isinstance(value, list):
            items[key] = value.copy()
    return twin
