"""Many clients in one call: trained together where the app can, summed where the strategy averages.

Flower's own engines know nothing of this: they call a `GroupApp` client by client.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from flwr.app import ArrayRecord, Context, Message, RecordDict, UserConfigValue
from flwr.clientapp import ClientApp

from fedalign.messages.validation import flaw_of

RunConfig = Mapping[str, UserConfigValue]

log = logging.getLogger("fedalign")


@dataclass(frozen=True)
class GroupRequest:
    """What the server asks of a group of clients.

    Attributes:
        stack: how many clients are trained as one, at most.
        partial_sums: the clients' weighted mean will do in place of their models.
        keep: nodes whose own models are wanted all the same.
        max_update_norm: how far a summed model may have moved, see `Config.max_update_norm`.
    """

    stack: int = 1
    partial_sums: bool = False
    keep: frozenset[int] = frozenset()
    max_update_norm: float | None = None


@dataclass
class GroupReplies:
    """What came back.

    Attributes:
        replies: one a client, or one for several; errors among them.
        models: by node, the models that `GroupRequest.keep` asked for and no reply holds.
        summed: replies may stand for several clients, and say so by a `Mark`.
    """

    replies: list[Message] = field(default_factory=list)
    models: dict[int, ArrayRecord] = field(default_factory=dict)
    summed: bool = False


class GroupApp(ClientApp):
    """A ClientApp that can also train several clients in one call, and that engines may prepare."""

    def train_many(
        self, messages: Sequence[Message], contexts: Sequence[Context], wanted: GroupRequest
    ) -> GroupReplies:
        """Return the answers of several clients whose messages have one and the same content."""
        raise NotImplementedError

    def flaw(
        self,
        message: Message,
        context: Context,  # noqa: ARG002
        reply: Message,
        max_update_norm: float | None,
    ) -> str | None:
        """Return why a client's reply to a message cannot be summed; None if it can."""
        return flaw_of(message, reply, max_update_norm)

    def sizes(self, run_config: RunConfig, num_partitions: int) -> Sequence[float]:  # noqa: ARG002
        """Return how much each client has to do, in any unit."""
        return [1.0] * num_partitions

    def share(self, run_config: RunConfig) -> Any:  # noqa: ARG002
        """Return what all workers need, made once in the server's process."""
        return None

    def adopt(self, run_config: RunConfig, num_partitions: int, shared: Any) -> None:
        """Take, in a worker, what `share` returned; NumPy arrays in it are read-only."""


@runtime_checkable
class GroupGrid(Protocol):
    """A grid that takes whole groups of clients, and holds their states itself."""

    def partitions(self) -> dict[int, int]:
        """Return node id by partition id."""
        ...

    def exchange(
        self, messages: Sequence[Message], wanted: GroupRequest, group: int, timeout: float | None
    ) -> GroupReplies:
        """Return the answers to messages, taken in groups of so many."""
        ...

    def states(self) -> dict[int, RecordDict]:
        """Return the states that clients have left, by node id."""
        ...

    def keep_state(self, node_id: int, state: RecordDict) -> None:
        """Let a node find a state when it is next asked."""
        ...
