"""Flower's Grid without SuperLink, HTTP or polling: it delivers messages to simulated nodes.

Strategies and ClientApps see a plain `flwr.serverapp.Grid`; only the transport differs. All private
parts of Flower on which the simulation relies are used here and in `fedalign.messages.copies`.
"""

from __future__ import annotations

import secrets
import time
import traceback
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count

from flwr.app import (
    Context,
    Error,
    Message,
    RecordDict,
    UserConfigValue,
)
from flwr.clientapp import ClientApp
from flwr.common.constant import NUM_PARTITIONS_KEY, PARTITION_ID_KEY, SUPERLINK_NODE_ID, ErrorCode
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedalign.messages.contexts import Contexts, states_of
from fedalign.messages.copies import node_of, private_copy
from fedalign.messages.groups import GroupReplies, GroupRequest
from fedalign.messages.partial_sums import counted, sum_replies
from fedalign.simulation.grouping import groups, members
from fedalign.simulation.stacks import check_device, flaws, train_together

SERVER_NODE_ID = SUPERLINK_NODE_ID
FIRST_NODE_ID = 1000  # partition p is node 1000 + p in every run, so that runs are comparable


class LocalGrid(Grid):
    """A Grid over `num_nodes` simulated clients; a subclass says where they run.

    Messages are delivered when they are pushed: `push_messages` returns after the last reply, and
    `pull_messages` returns each reply once, in the order of the ids and not in that in which the
    clients finished. A message's time to live is not enforced.

    Nodes without messages, and clients without state, cost neither time nor memory.
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
        """Run a ServerApp to its end; its exceptions are passed on unchanged."""
        run_config = dict(self._run_config)
        context = Context(self.run.run_id, SERVER_NODE_ID, {}, RecordDict(), run_config)
        server_app(grid=self, context=context)

    def set_run(self, run: Run) -> None:
        """Set the run to which all further messages belong."""
        self._run = run
        # Flower marks every new instruction with the identity of this process's only task.
        TaskIdentity.run_id, TaskIdentity.node_id = run.run_id, SERVER_NODE_ID
        TaskIdentity.task_id = 1

    @property
    def run(self) -> Run:
        """The run to which messages belong."""
        return self._run

    @property
    def num_workers(self) -> int:
        """The number of workers that train at the same time."""
        return 1

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Return a new instruction for a node; Flower recommends `Message(...)` instead."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Return the ids of all nodes, in the order of their partitions."""
        return list(self._nodes)

    def partitions(self) -> dict[int, int]:
        """Return the node id of each partition id."""
        return dict(enumerate(self._nodes))

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Deliver messages and return their ids once all have been answered."""
        batch = self._stamp(messages)
        for answers in self._answer(batch, GroupRequest(), 1, None):
            self._keep(answers)
            self.keep_states(answers.states)
        return [message.metadata.message_id for message in batch]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies to these messages that have arrived, in this order."""
        return [self._replies.pop(key) for key in message_ids if key in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Deliver messages and return their replies, in the order of the messages.

        Args:
            messages: a node may have several.
            timeout: seconds after which no further client is started; a running client is
                interrupted only if the engine can do so. As in Flower, a late reply is not
                returned but can be pulled by its message's id; without a start there is none.
        """
        batch = list(messages)
        came = self._exchange(batch, GroupRequest(), 1, timeout, store=True)
        return counted(batch, came.replies)

    def exchange(
        self, messages: Sequence[Message], request: GroupRequest, group: int, timeout: float | None
    ) -> GroupReplies:
        """Deliver messages in groups and return their replies, in the order of the messages.

        Consecutive messages with the same content form groups of at most `group`. Sums are made
        within a group, so they do not depend on the number of workers. Nothing is stored of the
        clients' states that come with the replies.
        """
        return self._exchange(messages, request, group, timeout, store=False)

    def _exchange(
        self, messages: Sequence[Message], request: GroupRequest, group: int,
        timeout: float | None, store: bool,
    ) -> GroupReplies:  # fmt: skip
        deadline = None if timeout is None else time.monotonic() + timeout
        batch, in_time = self._stamp(messages), set()
        came = GroupReplies()
        for answers in self._answer(batch, request, group, deadline):
            self._keep(answers)
            if store:
                self.keep_states(answers.states)
            came.notes += answers.notes
            if not is_over(deadline):
                in_time |= {reply.metadata.reply_to_message_id for reply in answers.replies}
                came.models |= answers.models
                came.members |= members(answers)
                came.states |= answers.states
        ids = (message.metadata.message_id for message in batch)
        came.replies = self.pull_messages(key for key in ids if key in in_time)
        return came

    def context(self, node_id: int) -> Context:
        """Return the Context of a node, with its latest state."""
        node_config: dict[str, UserConfigValue] = {
            PARTITION_ID_KEY: self._nodes.index(node_id),
            NUM_PARTITIONS_KEY: len(self._nodes),
        }
        state = RecordDict(dict(self._states.get(node_id, {})))
        return Context(self.run.run_id, node_id, node_config, state, dict(self._run_config))

    def contexts(self, nodes: Iterable[int]) -> Contexts:
        """Return the Contexts of nodes, each of which is made when it is asked for."""
        own, count = self._nodes, len(self._nodes)
        places = {node: (own.index(node), count) for node in nodes}
        return Contexts(self.context, places, self._states)

    def keep_states(self, states: Mapping[int, RecordDict]) -> None:
        """Store the states of nodes for their next messages."""
        for node, state in states.items():
            if state:
                self._states[node] = state
            else:
                self._states.pop(node, None)

    def states(self) -> Mapping[int, RecordDict]:
        """Return the stored states of clients by node id; later rounds do not change it."""
        return dict(self._states)

    @abstractmethod
    def _run_all(
        self, groups: list[list[Message]], request: GroupRequest, deadline: float | None
    ) -> Iterator[GroupReplies]:
        """Yield the replies of each group, in any order of the groups.

        All messages are for nodes of this Grid. No group is started once `is_over(deadline)`.
        Implementations call `serve`, here or in a worker.
        """

    def _stamp(self, messages: Iterable[Message]) -> list[Message]:
        """Return the messages marked as sent by this Grid, each with a new id."""
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
        """Yield the replies to a batch; an error reply for a node that does not exist."""
        known = [message for message in batch if node_of(message) in self._nodes]
        for message in batch if len(known) < len(batch) else ():
            if (node := node_of(message)) not in self._nodes:
                reason = f"there is no node {node}"
                yield GroupReplies([error_reply(message, ErrorCode.NODE_UNAVAILABLE, reason)])
        yield from self._run_all(groups(known, group), request, deadline)

    def _keep(self, answers: GroupReplies) -> None:
        """Store replies until they are pulled."""
        for reply in answers.replies:
            reply.metadata.__dict__["_message_id"] = next(self._message_ids)
            self._replies[reply.metadata.reply_to_message_id] = reply


def serve(
    app: ClientApp, messages: Sequence[Message], contexts: Sequence[Context], request: GroupRequest
) -> GroupReplies:
    """Return the replies of a group, from one call of the app if it can, else client by client."""
    answers, reason = train_together(app, messages, contexts, request)
    failed: set[int] = set()
    if answers is None:
        pairs = zip(messages, contexts, strict=True)
        replies = [call(app, private_copy(message), context) for message, context in pairs]
        failed = {reply.metadata.src_node_id for reply in replies if reply.has_error()}
        answers = sum_replies(replies, request, flaws(app, messages, contexts, replies, request))
        answers.notes += [reason] if reason else []
    states = states_of(contexts)
    answers.states = {node: state for node, state in states.items() if node not in failed}
    return answers


def call(app: ClientApp, message: Message, context: Context) -> Message:
    """Return the client's reply to a message; an exception becomes an Error reply, as in Flower.

    The error's reason has `ExceptionType: message` on its first line, then the traceback.
    `KeyboardInterrupt` and `SystemExit` are passed on; `DeviceError` if the GPU failed.
    """
    try:
        reply = app(message=message, context=context)
        if not isinstance(reply, Message):
            raise TypeError(f"the ClientApp returned a {type(reply).__name__}, not a Message")
        if reply.metadata.reply_to_message_id != message.metadata.message_id:
            raise ValueError("the ClientApp's Message has no reply_to=, or that of another message")
    except Exception as error:
        check_device(error, [context])
        headline = f"{type(error).__name__}: {' '.join(str(error).split())}"
        reason = f"{headline}\n{''.join(traceback.format_exception(error))}"
        return error_reply(message, ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason)
    return private_copy(reply)  # the client may have stored its records in its state


def error_reply(message: Message, code: int, reason: str) -> Message:
    """Return an Error reply to a message."""
    return Message(Error(code=code, reason=reason), reply_to=message)


def is_over(deadline: float | None) -> bool:
    """Return whether a deadline, in seconds of the monotonic clock, has passed; None never does."""
    return deadline is not None and time.monotonic() >= deadline
