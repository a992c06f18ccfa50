"""Groups of clients in one call: trained as stacks if the app can, summed if the strategy averages.

Flower's own engines know nothing about groups: they call a `GroupApp` client by client.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from flwr.app import ArrayRecord, Context, Message, RecordDict, UserConfigValue
from flwr.clientapp import ClientApp

from fedalign.messages.validation import flaw_of

RunConfig = Mapping[str, UserConfigValue]


@dataclass(frozen=True)
class GroupRequest:
    """What the server asks of a group of clients.

    Attributes:
        stack: how many clients are trained as one, at most.
        partial_sums: the weighted mean of the clients' models will do in their place.
        models_of: nodes whose own models are wanted beside the mean.
        max_update_norm: how far a summed model may have moved, see `Config.max_update_norm`.
    """

    stack: int = 1
    partial_sums: bool = False
    models_of: frozenset[int] = frozenset()
    max_update_norm: float | None = None


@dataclass
class GroupReplies:
    """The replies to the messages of a round, or of a group.

    Attributes:
        replies: one for each client, or one for several of them; errors are among them.
        models: by node, the models that `GroupRequest.models_of` asked for and no reply holds.
        summed: a reply may stand for several clients, and then carries a `Mark`.
        notes: what the server should log, such as why clients were not trained together.
        unusable: by node, why an answer that came is no reply to the message that was sent.
        members: by the node of a reply, the nodes for which the reply stands; those that are
            missing stand for themselves.
        states: by node, what clients that answered want to store; the server decides whether.
        failures: by partition, why clients raised.
    """

    replies: list[Message] = field(default_factory=list)
    models: dict[int, ArrayRecord] = field(default_factory=dict)
    summed: bool = False
    notes: list[str] = field(default_factory=list)
    unusable: dict[int, str] = field(default_factory=dict)
    members: dict[int, list[int]] = field(default_factory=dict)
    states: dict[int, RecordDict] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)

    def nodes_of(self, reply: Message) -> Collection[int]:
        """Return the nodes for which a reply stands."""
        node = reply.metadata.src_node_id
        return self.members.get(node, [node])


class GroupApp(ClientApp):
    """A ClientApp that can train several clients in one call, and that engines may prepare."""

    def train_many(
        self, messages: Sequence[Message], contexts: Sequence[Context], request: GroupRequest
    ) -> GroupReplies | None:
        """Return the replies of several clients whose messages have one and the same content.

        None: these clients must be called one by one.
        """
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
        """Return how much work each client has, in any unit."""
        return [1.0] * num_partitions

    def share(self, run_config: RunConfig) -> Any:  # noqa: ARG002
        """Return what all workers need; it is made once, in the server's process."""
        return None

    def adopt(self, run_config: RunConfig, num_partitions: int, shared: Any) -> None:
        """Take, in a worker, what `share` returned; NumPy arrays in it are read-only."""


@runtime_checkable
class GroupGrid(Protocol):
    """A grid that deals out groups of clients, and holds the clients' states itself."""

    @property
    def num_workers(self) -> int:
        """The number of workers that train at the same time."""
        ...

    def partitions(self) -> dict[int, int]:
        """Return node id by partition id."""
        ...

    def exchange(
        self, messages: Sequence[Message], request: GroupRequest, group: int, timeout: float | None
    ) -> GroupReplies:
        """Return the replies to messages, which are dealt out in groups of at most `group`.

        What clients want to store comes with the replies, and is stored by `keep_states` only.
        """
        ...

    def states(self) -> Mapping[int, RecordDict]:
        """Return the stored states of clients by node id; later rounds do not change it."""
        ...

    def keep_states(self, states: Mapping[int, RecordDict]) -> None:
        """Let nodes find these states when they are next asked."""
        ...
