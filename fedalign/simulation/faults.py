"""Who is tried again, and who is to blame, if a worker is lost."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from flwr.app import Message

from fedalign.messages.copies import node_of
from fedalign.messages.groups import GroupReplies
from fedalign.simulation.schedule import Task
from fedalign.simulation.serving import FAILED, error_reply

MAX_FAILED = 3  # clients that fail alone in a row, a worker, before all others are given up
MAX_DEATHS = 3  # of workers with the same client in a batch, before it is left out
Piece = list[Message]


class Fault(NamedTuple):
    """Why a worker is lost.

    Attributes:
        reason: its first line names the error.
        nodes: of the clients one of which caused it, all in the first group without replies; None:
            it may have been any client in the call.
    """

    reason: str
    nodes: Collection[int] | None = None


def blame(tasks: Sequence[Task], fault: Fault) -> tuple[list[list[Piece]], GroupReplies]:
    """Return the pieces in which each group without replies is served again, and what is said.

    A client is to blame, and gets an error reply instead, if it is known, or if its `MAX_DEATHS`-th
    worker died while it was alone. If any client of the call may be to blame, they are tried again:
    first group by group, so that the groups' sums have the same bits, and only then client by
    client.
    """
    first, *others = [task.messages for task in tasks]
    batch, whole = tasks[0].batch, [[messages] for messages in others]
    suspects = [m for m in first if fault.nodes is None or node_of(m) in fault.nodes]
    if fault.nodes is None:
        batch.deaths.update(node_of(message) for task in tasks for message in task.messages)
        most = max(batch.deaths[node_of(message)] for task in tasks for message in task.messages)
        if others or most < MAX_DEATHS:
            return [[first], *whole], _note(fault, "")
    if len(suspects) == 1:
        batch.failed += 1
        left = [message for message in first if message is not suspects[0]]
        replies = [error_reply(suspects[0], FAILED, fault.reason)]
        return [[left] if left else [], *whole], GroupReplies(replies)
    how = " one by one, which may change the last bits"
    return [[[message] for message in first], *whole], _note(fault, how)


def give_up(messages: Sequence[Message], fault: Fault) -> GroupReplies:
    """Return the error replies of clients that are not tried, since too many before them failed."""
    why = f"not tried, since {MAX_FAILED} clients failed in a row: {fault.reason}"
    return GroupReplies([error_reply(message, FAILED, why) for message in messages])


def _note(fault: Fault, how: str) -> GroupReplies:
    line = fault.reason.partition("\n")[0]
    return GroupReplies([], notes=[f"clients of a lost worker are tried again{how}: {line}"])
