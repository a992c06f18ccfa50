"""What a worker still has to do in a round, and who is tried again if the worker is lost."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

from flwr.app import Message
from flwr.common.constant import ErrorCode

from fedalign.messages.groups import GroupReplies
from fedalign.simulation.grid import error_reply

MAX_FAILED = 3  # clients that fail alone, one after the other, before all others are given up
FAILED = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
Share = list[list[Message]]
"""Groups of clients that a worker serves in one call."""


class Fault(NamedTuple):
    """Why a worker is lost.

    Attributes:
        reason: its first line names the error.
        nodes: of the clients one of which caused it, all in the first group without replies; None:
            it may have been any client in the call.
    """

    reason: str
    nodes: Collection[int] | None = None


@dataclass
class Queue:
    """What a worker still has to do in a round.

    Attributes:
        place: the worker's.
        shares: each is one call.
        failed: how many clients have failed alone since the last one that was served.
        retried: nodes of clients that were alone when a worker died; they are tried once more,
            since something else may have killed it.
    """

    place: int
    shares: list[Share]
    failed: int = 0
    retried: set[int] = field(default_factory=set)

    def lose(self, unserved: Share, fault: Fault) -> GroupReplies:
        """Queue clients without replies again, and return an error reply for one that is to blame.

        That is a client that was alone in its call, twice if the worker died, or that is known.
        Others of whom it may have been any are tried again in smaller parts: first group by group,
        then client by client.
        """
        blamed, shares = _divided(unserved, fault.nodes)
        self.shares[:0] = shares
        if blamed and fault.nodes is None and blamed.metadata.dst_node_id not in self.retried:
            self.retried.add(blamed.metadata.dst_node_id)
            self.shares.insert(0, [[blamed]])
            blamed = None
        if not blamed:
            line = fault.reason.partition("\n")[0]
            note = f"clients of a lost worker are tried again, fewer at a time: {line}"
            return GroupReplies([], notes=[note])
        self.failed += 1
        replies = [error_reply(blamed, FAILED, fault.reason)]
        if self.failed == MAX_FAILED:
            why = f"not tried, since {MAX_FAILED} clients failed in a row: {fault.reason}"
            left = [m for share in self.shares for group in share for m in group]
            replies += [error_reply(message, FAILED, why) for message in left]
            self.shares = []
        return GroupReplies(replies)


def _divided(unserved: Share, nodes: Collection[int] | None) -> tuple[Message | None, list[Share]]:
    """Return the message of the client that is to blame, if it is known, and the new shares."""
    suspected, others = (unserved, []) if nodes is None else (unserved[:1], unserved[1:])
    suspects = [message for group in suspected for message in group]
    if nodes is not None:
        suspects = [message for message in suspects if message.metadata.dst_node_id in nodes]
    if len(suspects) == 1:
        left = [[m for m in group if m is not suspects[0]] for group in unserved]
        left = [group for group in left if group]
        return suspects[0], [left] if left else []
    parts = suspected if len(suspected) > 1 else [[message] for message in suspected[0]]
    return None, [[part] for part in parts] + ([others] if others else [])
