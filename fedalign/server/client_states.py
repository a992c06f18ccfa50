"""What clients store from round to round; it counts only if the server used their reply."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedalign.messages.groups import GroupGrid
from fedalign.messages.records import STATE, with_content
from fedalign.server.sampling import Sample
from fedalign.settings.common import private_of
from fedalign.settings.config import Config
from fedalign.settings.registry import traits


class ClientStates(Protocol):
    """The states of a run's clients.

    Attributes:
        kind: of what a snapshot has of a client.
    """

    kind: ClassVar[type]

    def address(self, messages: Sequence[Message], clients: Sample) -> Sequence[Message]:
        """Return messages that say from which states their clients begin."""

    def keep(self, states: Mapping[int, RecordDict]) -> None:
        """Let the states that came with replies, by node, be those of the clients."""

    def snapshot(self) -> Mapping[int, Any] | None:
        """Return what a checkpoint stores; None if clients could not go on from it."""

    def restore(self, snapshot: Mapping[int, Any]) -> None:
        """Go on with the states of a snapshot."""

    def is_saved(self, snapshot: Mapping[int, Any]) -> None:
        """Note that a snapshot is in the checkpoint on the disk."""


def states_of(config: Config, grid: Grid) -> ClientStates:
    """Return the states of the clients behind a grid."""
    if isinstance(grid, GroupGrid):
        return HeldStates(grid)
    stateful = traits("clients", config.client.name).stateful
    return RemoteStates(stateful or bool(private_of(config.client)))


class HeldStates:
    """The states of simulated clients, which the grid holds."""

    kind: ClassVar[type] = RecordDict

    def __init__(self, grid: GroupGrid):
        self._grid = grid

    def address(self, messages: Sequence[Message], _: Sample) -> Sequence[Message]:
        """Return the messages; the grid knows the states."""
        return messages

    def keep(self, states: Mapping[int, RecordDict]) -> None:
        """Store the states in the grid."""
        self._grid.keep_states(states)

    def snapshot(self) -> Mapping[int, RecordDict]:
        """Return the states by node."""
        return self._grid.states()

    def restore(self, snapshot: Mapping[int, RecordDict]) -> None:
        """Store the states in the grid."""
        self._grid.keep_states(snapshot)

    def is_saved(self, snapshot: Mapping[int, RecordDict]) -> None:
        """Do nothing; the grid forgets no state."""


class RemoteStates:
    """The digests of states that nodes store, by partition.

    Args:
        stateful: clients store something from round to round.
    """

    kind: ClassVar[type] = str

    def __init__(self, stateful: bool):
        self._stateful = stateful
        self._digests: dict[int, str] = {}
        self._saved: Mapping[int, str] = {}
        self._partition_of: Mapping[int, int] = {}
        self._all_last = True  # no node has its state in memory only

    def address(self, messages: Sequence[Message], clients: Sample) -> Sequence[Message]:
        """Return messages with the digests of their clients' states, if clients have any."""
        self._partition_of = clients.partition_of
        return [self._addressed(message) for message in messages] if self._stateful else messages

    def keep(self, states: Mapping[int, RecordDict]) -> None:
        """Note the digests that came with replies."""
        for node in states.keys() & self._partition_of.keys():
            record: Any = states[node][STATE]
            self._digests[self._partition_of[node]] = str(record["digest"])
            self._all_last = self._all_last and record["lasts"] is True

    def snapshot(self) -> Mapping[int, str] | None:
        """Return the digests by partition; None if a node would lose its state with its process."""
        return dict(self._digests) if self._all_last else None

    def restore(self, snapshot: Mapping[int, str]) -> None:
        """Go on with the states that had these digests."""
        self._digests, self._saved = dict(snapshot), dict(snapshot)

    def is_saved(self, snapshot: Mapping[int, str]) -> None:
        """Let nodes keep the states of this snapshot until the next one is saved."""
        self._saved = snapshot

    def _addressed(self, message: Message) -> Message:
        partition = self._partition_of[message.metadata.dst_node_id]
        record = ConfigRecord()
        for key, digests in (("digest", self._digests), ("kept", self._saved)):
            record[key] = digests.get(partition, "")
        return with_content(message, RecordDict({**message.content, STATE: record}))


def take_states(replies: Sequence[Message]) -> dict[int, RecordDict]:
    """Return by node the digests that replies carry, and take them off; others are ignored."""
    taken = {r.metadata.src_node_id: r.content.pop(STATE) for r in replies if STATE in r.content}
    return {node: RecordDict({STATE: own}) for node, own in taken.items() if _is_digest(own)}


def _is_digest(record: Any) -> bool:
    known = isinstance(record, ConfigRecord) and set(record) == {"digest", "lasts"}
    return known and re.fullmatch("[0-9a-f]{64}", str(record["digest"])) is not None
