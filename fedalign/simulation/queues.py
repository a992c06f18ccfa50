"""What a worker still has to do in a round, and who is tried again if the worker is lost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import NamedTuple

from flwr.app import Message
from flwr.common.constant import ErrorCode

from fedalign.messages.groups import GroupReplies
from fedalign.simulation.grid import error_reply

MAX_FAILED = 3  # clients that fail alone, one after the other, before all others are given up
MAX_DEATHS = 3  # of workers with the same client in a round, before it is left out
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
        deaths: by node, how many workers have died in this round while they had the client.
    """

    place: int
    shares: list[Share]
    failed: int = 0
    deaths: Counter[int] = field(default_factory=Counter)

    def lose(self, unserved: Share, fault: Fault) -> GroupReplies:
        """Queue clients without replies again, and return an error reply for one that is to blame.

        That is a client that is known, or whose `MAX_DEATHS`-th worker died while it was alone.
        If any client of the call may be to blame, they are tried again: first group by group, so
        that the groups' sums have the same bits, and only then client by client.
        """
        if fault.nodes is None:
            self.deaths.update(m.metadata.dst_node_id for group in unserved for m in group)
        same = fault.nodes is None and self._may_stay(unserved)
        blamed, shares = (None, [[g] for g in unserved]) if same else _divided(unserved, fault)
        self.shares[:0] = shares
        if not blamed:
            line = fault.reason.partition("\n")[0]
            how = "" if same else " one by one, which may change the last bits"
            note = f"clients of a lost worker are tried again{how}: {line}"
            return GroupReplies([], notes=[note])
        self.failed += 1
        replies = [error_reply(blamed, FAILED, fault.reason)]
        if self.failed == MAX_FAILED:
            why = f"not tried, since {MAX_FAILED} clients failed in a row: {fault.reason}"
            left = [m for share in self.shares for group in share for m in group]
            replies += [error_reply(message, FAILED, why) for message in left]
            self.shares = []
        return GroupReplies(replies)

    def _may_stay(self, unserved: Share) -> bool:
        """Return whether clients whose worker died are tried again in the same groups."""
        most = max(self.deaths[m.metadata.dst_node_id] for group in unserved for m in group)
        return len(unserved) > 1 or most < MAX_DEATHS - (len(unserved[0]) > 1)


def _divided(unserved: Share, fault: Fault) -> tuple[Message | None, list[Share]]:
    """Return the message of the client that is to blame, if it is known, and the new shares."""
    group, *others = unserved
    nodes = fault.nodes
    suspects = [m for m in group if nodes is None or m.metadata.dst_node_id in nodes]
    if len(suspects) == 1:
        left = [message for message in group if message is not suspects[0]]
        share = [left, *others] if left else others
        return suspects[0], [share] if share else []
    return None, [[[message]] for message in group] + ([others] if others else [])
