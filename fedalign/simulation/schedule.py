"""Which groups of clients wait, which are served, and what has come back."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf, isfinite
from typing import Any

from flwr.app import Message

from fedalign.errors import FedalignError
from fedalign.messages.copies import node_of
from fedalign.messages.groups import GroupReplies, GroupRequest
from fedalign.simulation.costs import Costs

CALL_SECONDS = 0.2  # of work in one call of a worker: few calls a round, and equal ends
ROUNDING = 1e-9  # seconds
MIN_SECONDS = 0.005  # of work; with less, a call of a worker costs more than it saves
CLOSED = "the grid has been closed, so it serves no more clients"
SHORT = 60.0  # seconds; with a shorter timeout no groups share a call, as one could be late there


@dataclass(eq=False)
class Batch:
    """The messages of one call of a grid, and what has come back.

    Attributes:
        request: what is asked of each group.
        timeout: seconds that a client may take by itself; None: any number.
        kept: states are stored as they come, and late replies until they are pulled.
        left_alone: nobody waits for the replies (any more).
        open: how many groups have not been served.
        calls: of workers, in which the groups that wait are to be served; 0: not known yet.
        running: the groups that are being served.
        replies: those in time, by the id of the message.
        came: what has come beside them.
        error: what ended the batch.
        sent: by the id of a content, where Ray's workers find it.
        deaths: by node, how many workers have died while they had the client.
        failed: how many clients have failed alone since the last one that was served.
    """

    request: GroupRequest
    timeout: float | None
    kept: bool
    left_alone: bool = False
    open: int = 0
    calls: int = 0
    running: list[Task] = field(default_factory=list)
    replies: dict[str, Message] = field(default_factory=dict)
    came: GroupReplies = field(default_factory=GroupReplies)
    error: BaseException | None = None
    sent: dict[int, Any] = field(default_factory=dict)
    deaths: Counter[int] = field(default_factory=Counter)
    failed: int = 0

    def left(self) -> float | None:
        """Return the seconds until all that is waited for is late; None: not known yet."""
        if self.timeout is None or self.open > len(self.running):
            return None
        latest = max((task.late_at for task in self.running), default=0.0)
        return max(0.0, latest - time.monotonic()) if isfinite(latest) else None

    def waits(self) -> bool:
        """Return whether there are replies to wait for."""
        return bool(self.open) and self.error is None and self.left() != 0.0


@dataclass(eq=False)
class Task:
    """A group of messages that are served together.

    Attributes:
        messages: of one content and type, each for another node.
        batch: they belong to.
        alone: they are not to share a call with others.
        queued: nothing has to be served before them; they may be running.
        late_at: on the monotonic clock, when they are late; infinite in a call with others, which
            they may only seem to delay.
    """

    messages: list[Message]
    batch: Batch
    alone: bool = False
    queued: bool = False
    late_at: float = inf

    @property
    def limit(self) -> float:
        """The seconds after which the group is late: each client's `timeout`."""
        timeout = self.batch.timeout
        return inf if timeout is None else timeout * len(self.messages)


class Schedule:
    """The groups of all batches, served in order; those of a node one after the other.

    Several threads use it. `turn` guards it, and is notified of every change.

    Attributes:
        turn: as said.
        closed: no further group is served.
        error: why, if that was not meant.
        refusal: why no groups are served, if so.
    """

    def __init__(self, costs: Costs) -> None:
        self.turn = threading.Condition()
        self.closed = False
        self.error: BaseException | None = None
        self.refusal = ""
        self._costs = costs
        self._ready: deque[Task] = deque()
        self._lines: dict[int, list[Task]] = {}  # of each node's groups, in order

    def add(self, batch: Batch, groups: Sequence[list[Message]], longest_first: bool) -> None:
        """Append the groups of a new batch; `FedalignError` if nobody serves them."""
        tasks = [Task(group, batch) for group in groups]
        if longest_first:
            tasks.sort(key=lambda task: -self._costs.of(task.messages))
        with self.turn:
            self.check_open()
            batch.open += len(tasks)
            for task in tasks:
                for message in task.messages:
                    self._lines.setdefault(node_of(message), []).append(task)
            for task in tasks:
                self._queue(task)
            self.turn.notify_all()

    def waiting(self) -> bool:
        """Return whether there is anything to `take`."""
        return bool(self._ready)

    def has_followers(self, task: Task) -> bool:
        """Return whether later messages wait for one of the clients of a group."""
        return any(len(self._lines[node_of(message)]) > 1 for message in task.messages)

    def take(self, executors: int = 1, least: float = 0.0) -> list[Task]:
        """Return the groups that one of `executors` is to serve now. To be called under `turn`.

        They are of one batch. There are several only if they are known to be quick, and none if
        all that wait take less than `least` seconds.
        """
        if not self._ready or (least and not self._is_worth(least)):
            return []
        taken = [self._ready.popleft()]
        batch, most = taken[0].batch, self._most(taken[0], executors, bool(least))
        while most > 0 and self._ready and self._ready[0].batch is batch:
            most -= self._cost(self._ready[0])
            if most < -ROUNDING or self._ready[0].alone:
                break
            taken.append(self._ready.popleft())
        if len(taken) == 1:
            taken[0].late_at = time.monotonic() + taken[0].limit
        batch.running += taken
        return taken

    def finish(self, task: Task) -> None:
        """Note that a group has been served. To be called under `turn`."""
        task.batch.running.remove(task)
        self._remove(task)

    def put_back(self, task: Task, pieces: Sequence[list[Message]]) -> None:
        """Let a group that is lost be served again, in these pieces, before all others.

        To be called under `turn`.
        """
        again = [Task(piece, task.batch, alone=True, queued=True) for piece in pieces]
        for own in again:
            for message in own.messages:
                self._lines[node_of(message)].insert(1, own)
        task.batch.open += len(again)
        self._ready.extendleft(reversed(again))
        self.finish(task)

    def withdraw(self, batch: Batch) -> list[Message]:
        """Forget the groups of a batch that wait; return their messages. Under `turn`."""
        tasks = {id(task): task for line in self._lines.values() for task in line}
        gone = [t for t in tasks.values() if t.batch is batch and t not in batch.running]
        self._ready = deque(task for task in self._ready if task.batch is not batch)
        for task in gone:
            self._remove(task)
        return [message for task in gone for message in task.messages]

    def close(self, error: BaseException | None = None) -> None:
        """Let no further group be served, and nobody wait for one; `error` says why."""
        with self.turn:
            self.closed, self.refusal, self.error = True, CLOSED, error or self.error
            self._ready.clear()
            for task in itertools.chain(*self._lines.values()):
                task.batch.error = task.batch.error or error or FedalignError(CLOSED)
            self.turn.notify_all()

    def check_open(self) -> None:
        """Raise `FedalignError`, or what has closed it, if no groups are served."""
        if self.error is not None:
            raise self.error
        if self.refusal:
            raise FedalignError(self.refusal)

    def _remove(self, task: Task) -> None:
        task.batch.open -= 1
        for node in map(node_of, task.messages):
            line = self._lines[node]
            line.remove(task)
            if line:
                self._queue(line[0])
            else:
                del self._lines[node]
        self.turn.notify_all()

    def _queue(self, task: Task) -> None:
        """Let a group be served if each of its nodes has answered all earlier messages."""
        if not task.queued and all(self._lines[node_of(m)][0] is task for m in task.messages):
            task.queued = True
            self._ready.append(task)

    def _most(self, first: Task, executors: int, helped: bool) -> float:
        """Return the seconds of work in a call that begins with this group, without it.

        While much waits, each call is of `CALL_SECONDS`. The rest is divided evenly among as many
        calls as there are executors; if one of them is none of ours (`helped`), it is left a share.
        """
        batch, own = first.batch, self._cost(first)
        if executors == 1 or first.alone or (batch.timeout is not None and batch.timeout < SHORT):
            return 0.0
        total, much = own, executors * CALL_SECONDS
        for task in self._ready:
            total += self._cost(task) if task.batch is batch else 0.0
            if total > much:
                batch.calls = 0
                return CALL_SECONDS - own
        calls = batch.calls or executors
        batch.calls = max(calls - 1, 1 + helped)
        return min(max(total / calls, MIN_SECONDS), CALL_SECONDS) - own

    def _cost(self, task: Task) -> float:
        return self._costs.of(task.messages)

    def _is_worth(self, least: float) -> bool:
        """Return whether the groups that wait take `least` seconds."""
        total = 0.0
        return any((total := total + self._cost(task)) >= least for task in self._ready)
