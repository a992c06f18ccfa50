"""Flower's Grid without SuperLink, HTTP or polling: it delivers messages to simulated nodes.

Strategies and ClientApps see a plain `flwr.serverapp.Grid`; only the transport differs. All private
parts of Flower on which the simulation relies are used here and in `fedalign.messages.copies`.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import count

from flwr.app import Context, Message, RecordDict, UserConfigValue
from flwr.common.constant import NUM_PARTITIONS_KEY, PARTITION_ID_KEY, SUPERLINK_NODE_ID
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from fedalign.messages.contexts import Contexts
from fedalign.messages.copies import copy_of, node_of, with_content
from fedalign.messages.groups import GroupReplies, GroupRequest
from fedalign.messages.partial_sums import counted
from fedalign.simulation.client_errors import ClientErrors
from fedalign.simulation.costs import Costs
from fedalign.simulation.grouping import groups, members
from fedalign.simulation.schedule import Batch, Schedule, Task
from fedalign.simulation.serving import unknown_reply

SERVER_NODE_ID = SUPERLINK_NODE_ID
FIRST_NODE_ID = 1000  # partition p is node 1000 + p in every run, so that runs are comparable

log = logging.getLogger("flwr")


class LocalGrid(Grid):
    """A Grid over `num_nodes` simulated clients; a subclass says where they run.

    Any number of threads may use it. `push_messages` returns at once, and the clients run behind;
    `pull_messages` returns each reply once. A node answers its messages one after the other, and
    its state goes from one to the next, unless it raised. A client is late if it takes longer than
    a `timeout` by itself, so it makes no other late, however many run at a time. It has no longer
    than its message's time to live, either.

    Nodes without messages, and clients without state, cost neither time nor memory.
    """

    def __init__(
        self,
        num_nodes: int,
        run_config: Mapping[str, UserConfigValue] | None = None,
        run_id: int | None = None,
    ) -> None:
        self._nodes = range(FIRST_NODE_ID, FIRST_NODE_ID + num_nodes)
        self.run_config = dict(run_config or {})
        self._message_ids = map(str, count(1))
        self._replies: dict[str, Message] = {}
        self._expected: set[str] = set()  # ids of messages whose replies have not been pulled
        self._states: dict[int, RecordDict] = {}
        self._errors = ClientErrors()
        self._error: BaseException | None = None
        self.costs = Costs()
        self.usage = self.costs.usage
        self.schedule = Schedule(self.costs)
        self._run = Run.create_empty(secrets.randbits(63) if run_id is None else run_id)
        self.set_run(self._run)

    def serve(self, server_app: ServerApp) -> None:
        """Run a ServerApp to its end; its exceptions are passed on unchanged."""
        run_config = dict(self.run_config)
        context = Context(self.run.run_id, SERVER_NODE_ID, {}, RecordDict(), run_config)
        try:
            server_app(grid=self, context=context)
        finally:
            self._errors.report()

    def close(self) -> None:
        """Stop serving clients; what has been pushed and not begun is forgotten."""
        self.schedule.close()

    def set_run(self, run: Run) -> None:
        """Let this process's new messages belong to this run, which must be the grid's own.

        Raises:
            TypeError: it is no run.
            RuntimeError: it is another one.
        """
        if not isinstance(run, Run):
            raise TypeError(f"`run` must be an instance of Run, got {type(run).__name__}")
        if run.run_id != self._run.run_id:
            raise RuntimeError(f"Cannot find the run with ID: {run.run_id}")
        # Flower marks every new instruction with the identity of this process's only task.
        TaskIdentity.run_id, TaskIdentity.node_id = run.run_id, SERVER_NODE_ID
        TaskIdentity.task_id = 1

    @property
    def run(self) -> Run:
        """The run to which messages belong."""
        return self._run

    @property
    def num_workers(self) -> int:
        """The number of processes that serve clients at the same time."""
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
        """Have messages delivered behind, and return the ids of those to nodes that exist.

        Raises:
            ValueError: one of them is a reply, has been delivered, or has no time to live; none of
                them is delivered.
        """
        batch = self._stamp(messages)
        own = {id(content): copy_of(content) for content in (m.content for m in batch)}
        sent = [with_content(message, own[id(message.content)]) for message in batch]
        self._submit(sent, Batch(GroupRequest(), timeout=None, kept=True, left_alone=True), 1)
        self._work_behind()
        return [message.metadata.message_id for message in batch]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies to these messages that have come, in this order.

        There is an Error reply, as from Flower's SuperLink, to an id that is not known, or whose
        reply has been pulled already. `FedalignError` if the grid is closed and none has come.
        """
        with self.schedule.turn:
            if error := self._error or self.schedule.error:
                raise error
            keys = list(dict.fromkeys(message_ids))
            unknown = [key for key in keys if key not in self._expected]
            there = {key: unknown_reply(key, self.run.run_id) for key in unknown}
            there |= {key: self._replies.pop(key) for key in keys if key in self._replies}
            self._expected -= there.keys()
            if keys and not there:
                self.schedule.check_open()
        return [there[key] for key in keys if key in there]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Deliver messages and return their replies, in the order of the messages.

        Args:
            messages: a node may have several.
            timeout: seconds that each client may take by itself. As in Flower, a late reply is not
                returned but can be pulled by its message's id, and with 0 all are late.
        """
        if timeout is not None and timeout <= 0:
            self.push_messages(messages)
            return []
        batch = self._stamp(messages)
        return counted(batch, self._receive(batch, Batch(GroupRequest(), timeout, kept=True), 1))

    def exchange(
        self, messages: Sequence[Message], request: GroupRequest, group: int, timeout: float | None
    ) -> GroupReplies:
        """Deliver messages in groups and return their replies, in the order of the messages.

        Consecutive messages with the same content form groups of at most `group`. Sums are made
        within a group, so they do not depend on the number of workers. Nothing is stored of the
        clients' states that come with the replies, nor of late replies.
        """
        batch = Batch(request, timeout, kept=False)
        batch.came.replies = self._receive(self._stamp(messages), batch, group)
        return batch.came

    def context(self, node_id: int) -> Context:
        """Return the Context of a node, with its latest state."""
        node_config: dict[str, UserConfigValue] = {
            PARTITION_ID_KEY: self._nodes.index(node_id),
            NUM_PARTITIONS_KEY: len(self._nodes),
        }
        state = copy_of(self._states.get(node_id, RecordDict()))
        return Context(self.run.run_id, node_id, node_config, state, dict(self.run_config))

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

    def _stamp(self, messages: Iterable[Message]) -> list[Message]:
        """Return the messages to existing nodes, marked as sent by this Grid, with new ids."""
        batch, run_id, at = list(messages), self.run.run_id, datetime.now(UTC).isoformat()
        headers = [message.metadata for message in batch]
        for message, metadata in zip(batch, headers, strict=True):
            if metadata.reply_to_message_id or metadata.delivered_at or metadata.ttl <= 0:
                raise ValueError(f"Invalid message: {message}")
        for metadata in headers:
            metadata.__dict__.update(
                _message_id=next(self._message_ids),
                _run_id=run_id,
                _src_node_id=SERVER_NODE_ID,
                _delivered_at=at,
            )
        for node in {node for node in map(node_of, batch) if node not in self._nodes}:
            log.error("a message to node %d is dropped: there is no such node", node)
        return [message for message in batch if node_of(message) in self._nodes]

    def _submit(self, messages: list[Message], batch: Batch, group: int) -> None:
        if batch.kept:
            with self.schedule.turn:
                self._expected.update(message.metadata.message_id for message in messages)
        self.schedule.add(batch, groups(messages, group), self.num_workers > 1)

    def _receive(self, messages: list[Message], batch: Batch, group: int) -> list[Message]:
        """Deliver messages and return the replies that are in time, in the order of messages."""
        self._submit(messages, batch, group)
        turn = self.schedule.turn
        try:
            while batch.waits():
                if not self._work():
                    with turn:
                        if batch.waits() and not self._can_work():
                            turn.wait(batch.left())
        finally:
            with turn:
                batch.left_alone = True
                self.schedule.withdraw(batch)
                self._expected.difference_update(batch.replies)
        if batch.error is not None:
            raise batch.error
        ids = (message.metadata.message_id for message in messages)
        return [batch.replies[key] for key in ids if key in batch.replies]

    def _can_work(self) -> bool:
        """Return whether `_work` would serve anybody. It is called under the schedule's `turn`."""
        return False

    def _work(self) -> bool:
        """Serve the next group in this thread, if that is allowed; return whether it was."""
        return False

    def _work_behind(self) -> None:
        """Have the groups that wait served by other threads."""

    def keep(self, task: Task, answers: GroupReplies, seconds: float = 0.0) -> None:
        """Take the replies of a group, or some of them, which took so many seconds."""
        batch, late = task.batch, seconds > task.limit
        with self.schedule.turn:
            if batch.kept:
                self.keep_states(answers.states)
                for reply in answers.replies:
                    self._errors.note(self._nodes.index(reply.metadata.src_node_id), reply)
            if batch.kept and seconds > min(message.metadata.ttl for message in task.messages):
                keys = [message.metadata.message_id for message in task.messages]
                answers = GroupReplies([unknown_reply(key, self.run.run_id) for key in keys])
            found = {reply.metadata.reply_to_message_id: reply for reply in answers.replies}
            for reply in answers.replies:
                reply.metadata.__dict__["_message_id"] = next(self._message_ids)
            if late or batch.left_alone:
                self._replies |= found if batch.kept else {}
                return
            batch.replies |= found
            batch.came.notes += answers.notes
            batch.came.models |= answers.models
            batch.came.members |= members(answers)
            batch.came.states |= answers.states

    def fail(self, task: Task, error: BaseException) -> None:
        """End a batch with an error, which its sender gets, or who next pulls replies."""
        with self.schedule.turn:
            task.batch.error = error
            self._error = error if task.batch.left_alone else self._error
            self.schedule.withdraw(task.batch)
            self.schedule.finish(task)
