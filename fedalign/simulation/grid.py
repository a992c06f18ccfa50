"""Flower's Grid without SuperLink, HTTP or polling: a table of nodes and the post between them.

Strategies and ClientApps see a plain ``flwr.serverapp.Grid``; only the transport differs. Every
part of Flower that is not public and that we rely on is touched in this file and nowhere else.
"""

from __future__ import annotations

import secrets
import time
import traceback
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from itertools import count, groupby, pairwise
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
    UserConfigValue,
)
from flwr.clientapp import ClientApp
from flwr.common.constant import NUM_PARTITIONS_KEY, PARTITION_ID_KEY, SUPERLINK_NODE_ID, ErrorCode
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedalign.messages.groups import GroupReplies, GroupRequest
from fedalign.messages.partial_sums import sum_replies
from fedalign.simulation.stacks import flaws, train_together

SERVER_NODE_ID = SUPERLINK_NODE_ID
FIRST_NODE_ID = 1000  # partition p is node 1000 + p in every run, so that runs can be compared


class LocalGrid(Grid):
    """A Grid over ``num_nodes`` simulated clients; a subclass says where they run.

    Messages are delivered when they are pushed: ``push_messages`` returns once every reply is
    there, and ``pull_messages`` hands each reply out once, in the order asked for, whatever
    order the clients finished in. A message's time to live is not enforced.

    Nodes that nobody talks to cost nothing, and a client without a state leaves nothing behind.
    """

    def __init__(
        self,
        num_nodes: int,
        run_config: Mapping[str, UserConfigValue] | None = None,
        run_id: int | None = None,
    ) -> None:
        self._nodes = range(FIRST_NODE_ID, FIRST_NODE_ID + num_nodes)
        self._run_config = dict(run_config or {})
        self._message_ids = map(str, count(1))
        self._replies: dict[str, Message] = {}
        self._states: dict[int, RecordDict] = {}
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

    def partitions(self) -> dict[int, int]:
        """Return node id by partition id."""
        return dict(enumerate(self._nodes))

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Return the ids of ``messages``, each of which has been answered by now."""
        batch = self._stamp(messages)
        for answers in self._answer(batch, GroupRequest(), 1, None):
            self._keep(answers)
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
        return self.exchange(list(messages), GroupRequest(), 1, timeout).replies

    def exchange(
        self, messages: Sequence[Message], request: GroupRequest, group: int, timeout: float | None
    ) -> GroupReplies:
        """Return the answers to ``messages``, in their order.

        Consecutive messages with the same content are dealt out in groups of ``group``, however
        many workers there are; what is summed is a group, so the sums do not depend on workers.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        batch, in_time = self._stamp(messages), set()
        models: dict[int, ArrayRecord] = {}
        notes: list[str] = []
        for answers in self._answer(batch, request, group, deadline):
            self._keep(answers)
            notes += answers.notes
            if not is_over(deadline):
                in_time |= {reply.metadata.reply_to_message_id for reply in answers.replies}
                models |= answers.models
        ids = (message.metadata.message_id for message in batch)
        replies = self.pull_messages(key for key in ids if key in in_time)
        return GroupReplies(replies, models, notes=notes)

    def context(self, node_id: int) -> Context:
        """Return the Context of a node, with the state that it left."""
        node_config: dict[str, UserConfigValue] = {
            PARTITION_ID_KEY: self._nodes.index(node_id),
            NUM_PARTITIONS_KEY: len(self._nodes),
        }
        state = self._states.get(node_id)
        state = RecordDict() if state is None else state
        return Context(self.run.run_id, node_id, node_config, state, dict(self._run_config))

    def keep_state(self, node_id: int, state: RecordDict) -> None:
        """Return nothing; the node finds ``state`` when it is next asked."""
        if state:
            self._states[node_id] = state
        else:
            self._states.pop(node_id, None)

    def states(self) -> dict[int, RecordDict]:
        """Return the states that clients have left, by node id."""
        return dict(self._states)

    @abstractmethod
    def _run_all(
        self, groups: list[list[Message]], request: GroupRequest, deadline: float | None
    ) -> Iterator[GroupReplies]:
        """Yield the answers to each of ``groups``, in any order.

        Every message is for a node of this Grid. Nothing is started once ``is_over(deadline)``.
        Implementations use ``serve``, here or in a worker, and ``keep_state`` afterwards.
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

    def _answer(
        self, batch: list[Message], request: GroupRequest, group: int, deadline: float | None
    ) -> Iterator[GroupReplies]:
        """Yield the answers to ``batch``: an error for a node that is not in the table."""
        for message in batch:
            if message.metadata.dst_node_id not in self._nodes:
                reason = f"there is no node {message.metadata.dst_node_id}"
                yield GroupReplies([error_reply(message, ErrorCode.NODE_UNAVAILABLE, reason)])
        known = [message for message in batch if message.metadata.dst_node_id in self._nodes]
        yield from self._run_all(_groups(known, group), request, deadline)

    def _keep(self, answers: GroupReplies) -> None:
        """Return nothing; the replies can now be pulled."""
        for reply in answers.replies:
            reply.metadata.__dict__["_message_id"] = next(self._message_ids)
            self._replies[reply.metadata.reply_to_message_id] = reply


def serve(
    app: ClientApp, messages: Sequence[Message], contexts: Sequence[Context], request: GroupRequest
) -> GroupReplies:
    """Return what the clients of a group answer, together if the app can, else one by one."""
    together, reason = train_together(app, messages, contexts, request)
    if together is not None:
        return together
    pairs = zip(messages, contexts, strict=True)
    replies = [call(app, private_copy(message), context) for message, context in pairs]
    answers = sum_replies(replies, request, flaws(app, messages, contexts, replies, request))
    answers.notes += [reason] if reason else []
    return answers


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


def _groups(messages: list[Message], size: int) -> list[list[Message]]:
    """Return runs of messages with one content and type, cut into even parts of at most ``size``.

    A node comes once in a group: its state has to go from one message to the next.
    """
    groups: list[list[Message]] = []
    for _, run in groupby(messages, lambda m: (id(m.content), m.metadata.message_type)):
        alike = list(run)
        nodes = {message.metadata.dst_node_id for message in alike}
        parts = -(-len(alike) // size) if len(nodes) == len(alike) else len(alike)
        cuts = [len(alike) * part // parts for part in range(parts + 1)]
        groups += [alike[start:stop] for start, stop in pairwise(cuts)]
    return groups


def is_over(deadline: float | None) -> bool:
    """Return whether ``deadline``, in seconds of the monotonic clock, has come."""
    return deadline is not None and time.monotonic() >= deadline
