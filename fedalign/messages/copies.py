"""Copies of Flower's messages, which cost less than new ones that Flower checks anew."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict


def private_copy(message: Message) -> Message:
    """Return a copy of a message whose changes do not affect the original.

    Records, lists and Arrays are copied; the bytes inside an Array are immutable and shared. So a
    model that is sent to a thousand clients is in memory once.
    """
    twin = copy(message)
    twin.__dict__["_metadata"] = copy(message.metadata)
    if message.has_content():
        twin.content = copy_of(message.content)
    return twin


def copy_of(content: RecordDict) -> RecordDict:
    """Return a copy of records whose changes do not affect the original."""
    return RecordDict({name: _copy(record) for name, record in content.items()})


def with_content(message: Message, content: RecordDict | None) -> Message:
    """Return a copy of a message with other content; None makes an envelope without content."""
    twin = copy(message)
    twin.__dict__["_content"] = content
    return twin


def for_nodes(content: RecordDict, nodes: Sequence[int], message_type: str) -> list[Message]:
    """Return a new message with this content for each node; Flower checks the first of them."""
    messages = [Message(content, node, message_type) for node in nodes[:1]]
    if not messages:
        return messages
    envelope, sent, kind = vars(messages[0]), messages[0].metadata, type(messages[0].metadata)
    for node in nodes[1:]:
        message, metadata = Message.__new__(Message), kind.__new__(kind)
        metadata.__dict__.update(vars(sent), _dst_node_id=node)
        message.__dict__.update(envelope, _metadata=metadata)
        messages.append(message)
    return messages


def node_of(message: Message) -> int:
    """Return the node that a message goes to: its `metadata.dst_node_id`, but quickly."""
    node: int = message.__dict__["_metadata"].__dict__["_dst_node_id"]
    return node


def _copy(record: ArrayRecord | MetricRecord | ConfigRecord) -> Any:
    """Return a copy of a record whose lists and Arrays are copies too."""
    twin: Any = record.copy()
    for key, value in record.items():
        if isinstance(value, (Array, list)):
            twin[key] = copy(value)
    return twin
