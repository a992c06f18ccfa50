"""Flower's Grid without SuperLink, HTTP or polling: a table of nodes and the post between them.

Strategies and ClientApps see a plain ``flwr.serverapp.Grid``; only the transport differs. Every
part of Flower that is not public and that we rely on is touched in this file and nowhere else.
"""

from __future__ import annotations

import secrets
import time
import traceback
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from copy import copy
from itertools import count
from typing import Any

from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Error,
    Message,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
from flwr.common.constant import NUM_PARTITIONS_KEY, PARTITION_ID_KEY, SUPERLINK_NODE_ID, ErrorCode
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedalign.simulation.app import Scalar

SERVER_NODE_ID = SUPERLINK_NODE_ID
FIRST_NODE_ID = 1000  # partition p is node 1000 + p in every run, so that runs can be compared


class LocalGrid(Grid):
    """A Grid over ``num_nodes`` simulated clients; a subclass says where they run.

    Messages are delivered when they are pushed: ``push_messages`` returns once every reply is
    there, and ``pull_messages`` hands each reply out once, in the order asked for, whatever
    order the clients finished in. A message's time to live is not enforced.

    Attributes:
        contexts: The Context of every node that has been asked for, by node id; made on first
            use, so that nodes nobody talks to cost nothing.
    """

    def __init__(
        self,
        num_nodes: int,
        run_config: Mapping[str, Scalar] | None = None,
        run_id: int | None = None,
    ) -> None:
        self._nodes = range(FIRST_NODE_ID, FIRST_NODE_ID + num_nodes)
        self._run_config = dict(run_config or {})
        self._message_ids = map(str, count(1))
        self._replies: dict[str, Message] = {}
        self.contexts: dict[int, Context] = {}
        self.set_run(Run.create_empty(secrets.randbits(63) if run_id is None else run_id))

    def serve(self, server_app: ServerApp) -> None:
        """Return when ``server_app`` has come to its end; what it raises comes out as is."""
        run_config = dict(self._run_config)
        context = Context(self.run.run_id, SERVER_NODE_ID, {}, RecordDict(), run_config)
        server_app(grid=self, context=context)

    def set_run(self, run: Run) -> None:
        """Return nothing; messages belong to ``run`` from here on."""
        self._run = run
        # Flower stamps every new instruction with the identity of "the" task of this process.
        TaskIdentity.run_id, TaskIdentity.node_id = run.run_id, SERVER_NODE_ID
        TaskIdentity.task_id = 1

    @property
    def run(self) -> Run:
        """The run this Grid works for."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a new instruction for a node; Flower prefers ``Message(...)`` itself."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Return the ids of all nodes, in the order of their partitions."""
        return list(self._nodes)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Return the ids of ``messages``, each of which has been answered by now."""
        batch = self._stamp(messages)
        for reply in self._answer(batch, None):
            self._keep(reply)
        return [message.metadata.message_id for message in batch]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies to ``message_ids`` that are there, in the order asked for."""
        return [self._replies.pop(key) for key in message_ids if key in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Return the replies to ``messages``, in their order.

        Args:
            messages: Instructions, one a node or many.
            timeout: Seconds. When they are over no further client is started, and a client
                that runs is not interrupted where the engine cannot do so. As in Flower, a reply
                that comes too late is not returned here but can be pulled by its message's id;
                a message whose client was never started has no reply.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        batch, in_time = self._stamp(messages), set()
        for reply in self._answer(batch, deadline):
            self._keep(reply)
            if not is_over(deadline):
                in_time.add(reply.metadata.reply_to_message_id)
        ids = (message.metadata.message_id for message in batch)
        return self.pull_messages(key for key in ids if key in in_time)

    def context(self, node_id: int) -> Context:
        """Return the Context of a node, which keeps the client's state between messages."""
        if node_id not in self.contexts:
            node_config: dict[str, Scalar] = {
                PARTITION_ID_KEY: self._nodes.index(node_id),
                NUM_PARTITIONS_KEY: len(self._nodes),
            }
            self.contexts[node_id] = Context(
                self.run.run_id, node_id, node_config, RecordDict(), dict(self._run_config)
            )
        return self.contexts[node_id]

    @abstractmethod
    def _run_all(self, messages: list[Message], deadline: float | None) -> Iterator[Message]:
        """Yield one reply for each of ``messages``, in any order.

        Every message is for a node of this Grid. Nothing is started once ``is_over(deadline)``.
        Implementations use ``call`` and ``private_copy``, here or in a worker.
        """

    def _stamp(self, messages: Iterable[Message]) -> list[Message]:
        """Return ``messages`` as sent by this Grid, each with an id of its own."""
        batch = list(messages)
        for message in batch:
            message.metadata.__dict__.update(
                _message_id=next(self._message_ids),
                _run_id=self.run.run_id,
                _src_node_id=SERVER_NODE_ID,
            )
        return batch

    def _answer(self, batch: list[Message], deadline: float | None) -> Iterator[Message]:
        """Yield the replies to ``batch``: an error for a node that is not in the table."""
        for message in batch:
            if message.metadata.dst_node_id not in self._nodes:
                reason = f"there is no node {message.metadata.dst_node_id}"
                yield error_reply(message, ErrorCode.NODE_UNAVAILABLE, reason)
        known = [message for message in batch if message.metadata.dst_node_id in self._nodes]
        yield from self._run_all(known, deadline)

    def _keep(self, reply: Message) -> None:
        """Return nothing; ``reply`` can now be pulled."""
        reply.metadata.__dict__["_message_id"] = next(self._message_ids)
        self._replies[reply.metadata.reply_to_message_id] = reply


def call(app: ClientApp, message: Message, context: Context) -> Message:
    """Return the client's reply to ``message``; an exception becomes an Error reply, as in Flower.

    The error's reason is ``ExceptionType: message`` on its first line, then the traceback.
    ``KeyboardInterrupt`` and ``SystemExit`` are not the client's to swallow and pass through.
    """
    try:
        reply = app(message=message, context=context)
        if not isinstance(reply, Message):
            raise TypeError(f"the ClientApp returned a {type(reply).__name__}, not a Message")
        if reply.metadata.reply_to_message_id != message.metadata.message_id:
            raise ValueError("the ClientApp's Message has no reply_to=, or that of another message")
    except Exception as error:
        headline = f"{type(error).__name__}: {' '.join(str(error).split())}"
        reason = f"{headline}\n{''.join(traceback.format_exception(error))}"
        return error_reply(message, ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason)
    return private_copy(reply)  # the client may have kept a record, in its state for one


def error_reply(message: Message, code: int, reason: str) -> Message:
    """Return the reply that says why there is no answer to ``message``."""
    return Message(Error(code=code, reason=reason), reply_to=message)


def private_copy(message: Message) -> Message:
    """Return ``message`` in containers of its own, so that neither side can change the other's.

    Records, lists and Arrays are copied; the bytes inside an Array, which nobody can change, are
    shared. So a broadcast of one model to a thousand clients is held once.
    """
    twin = copy(message)
    twin.__dict__["_metadata"] = copy(message.metadata)
    if message.has_content():
        twin.content = RecordDict({name: _copy(rec) for name, rec in message.content.items()})
    return twin


def with_content(message: Message, content: RecordDict | None) -> Message:
    """Return ``message`` with another content, or with none: an envelope."""
    twin = copy(message)
    twin.__dict__["_content"] = content
    return twin


def _copy(record: ArrayRecord | MetricRecord | ConfigRecord) -> Any:
    """Return a record of its own with the same values."""
    twin: Any = record.copy()
    for key, value in record.items():
        if isinstance(value, (Array, list)):
            twin[key] = copy(value)
    return twin


def is_over(deadline: float | None) -> bool:
    """Return whether ``deadline``, in seconds of the monotonic clock, has come."""
    return deadline is not None and time.monotonic() >= deadline
