"""Who there is, who is there now, and who takes part."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from operator import itemgetter
from typing import Any, cast

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedalign.errors import FedalignError, InputError
from fedalign.rng import rng

log = logging.getLogger("fedalign")

PAUSE = 1.0  # seconds between two looks at who is there, at most
LONG = 10.0  # seconds of waiting that nobody need be told of


class SimulatedNodes:
    """The nodes of a federation, all of which are there all the time.

    Attributes:
        population: how many clients there are, in all.
        sizes: by partition id, how many examples a client trains on.
        tests: by partition id, how many it tests on.
        own: clients have data of their own, which the server knows nothing of.
        told: what they must be told in each message.
    """

    own = False
    told: Mapping[str, Any] = {}

    def __init__(self, nodes: dict[int, int], sizes: Collection[int], tests: Collection[int]):
        self._nodes, self.population = nodes, len(nodes)
        self.sizes = dict(zip(nodes, sizes, strict=True))
        self.tests = dict(zip(nodes, tests, strict=True))

    def can_test(self, partition: int) -> bool:
        """Return whether a client has something to test on."""
        return self.tests[partition] > 0

    def present(self) -> Mapping[int, int]:
        """Return node id by partition id, in the order of the latter."""
        return self._nodes


class RemoteNodes(SimulatedNodes):
    """Nodes that come and go: of a SuperLink, or of Flower's engine, which begins without them.

    Flower's node ids are random; everything reproducible goes by partition id, so each is asked
    which one it holds. One that has data of its own may hold none, and goes by its node id.

    Args:
        grid: the run's.
        told: what examples look like, see `Spec.to_config`.
        expected: how many clients there are, if they do not say so themselves.
        least: how many must be there; None: all of them.
        timeout: seconds to wait for them.
    """

    def __init__(
        self,
        grid: Grid,
        told: Mapping[str, Any],
        expected: int,
        least: int | None,
        timeout: float,
    ):
        super().__init__({}, (), ())
        self.population, self.told = expected, told
        self._grid, self._least, self._timeout = grid, least, timeout
        self._says: int | None = None  # how many there are, say those that know
        self._partition_of: dict[int, int] = {}
        self._refused: dict[int, str] = {}
        self._asked: dict[str, int] = {}  # by message, the nodes that have not answered yet
        self._complete = False

    def present(self) -> Mapping[int, int]:
        """Return node id by partition id of those that are there, once there are enough.

        Raises:
            FedalignError: there are not within `timeout`, or cannot be since some were refused.
        """
        began, pause, told = time.monotonic(), 0.05, False
        while True:
            self._look()
            least = self._least or self.population
            if len(self._partition_of) >= least:
                self._complete = True
                found = ((partition, node) for node, partition in self._partition_of.items())
                return dict(sorted(found))
            come = f"{len(self._partition_of)} of {self.population} nodes"
            if self._refused and self.population - len(self._refused) < least:
                why = next(iter(self._refused.values()))
                raise FedalignError(f"{come} can take part, and {least} must: {why}")
            waited = time.monotonic() - began
            if waited > self._timeout:
                raise FedalignError(f"{come} came within {self._timeout:.0f} s, and {least} must")
            if not told and (self._complete or waited > LONG):
                log.warning("waiting: %s are there, and %d must be", come, least)
                told = True
            time.sleep(pause)
            pause = min(2 * pause, PAUSE)

    def _look(self) -> None:
        """Take note of who has left, and of what those say who have come.

        Nobody is waited for: one that takes its time to answer does not hold up the others.
        """
        there = set(self._grid.get_node_ids())
        for node in self._partition_of.keys() - there:
            log.warning("client %d has left", self._partition_of.pop(node))
        for node in self._refused.keys() - there:
            del self._refused[node]  # when it comes back it is asked again
        known = self._partition_of.keys() | self._refused.keys() | set(self._asked.values())
        fresh = sorted(there - known)
        record = RecordDict({"config": ConfigRecord(dict(self.told))})
        asks = [Message(record, node, "query.whoami") for node in fresh]
        asked = self._grid.push_messages(asks) if asks else ()
        self._asked |= {id: node for id, node in zip(asked, fresh, strict=True) if id}
        replies = list(self._grid.pull_messages(list(self._asked))) if self._asked else []
        nodes = [self._asked.pop(reply.metadata.reply_to_message_id) for reply in replies]
        for node, reply in sorted(zip(nodes, replies, strict=True), key=itemgetter(0)):
            if reply.metadata.src_node_id == node:  # else it is gone, and Flower answers for it
                self._admit(node, reply)

    def _admit(self, node: int, reply: Message) -> None:
        """Take a node in, with what it says of itself, or note why it cannot take part."""
        record = None if reply.has_error() else reply.content.metric_records.get("whoami")
        told = {key: value for key, value in (record or {}).items() if isinstance(value, int)}
        partition, says = told.get("partition-id", node), told.get("num-partitions")
        why = why_not(reply) if reply.has_error() else self._objection(partition, says)
        if why:
            self._refused[node] = f"node {node} cannot take part: {why}"
            log.warning(self._refused[node])
            return
        if says is not None:
            self._says = self.population = says
        self.sizes[partition] = told.get("examples", 1)
        self.tests[partition] = told.get("tests", 0)
        self.own = self.own or told.get("own", 0) > 0
        if self._complete:
            log.warning("client %d has come", partition)
        self._partition_of[node] = partition

    def _objection(self, partition: int, says: int | None) -> str | None:
        """Return what speaks against a node that says this of itself; None: nothing."""
        if partition in self._partition_of.values():
            return f"it holds partition {partition}, as another node does"
        if says is not None and self._says not in (None, says):
            return f"it says that there are {says} partitions, and others say {self._says}"
        return None


def shown(grid: Grid, drawn: Mapping[int, int]) -> Grid:
    """Return a grid on which a strategy sees only the nodes drawn for this round."""
    return cast(Grid, _Shown(grid, drawn))  # strategies ask a grid for nothing but its nodes


class _Shown:
    def __init__(self, grid: Grid, drawn: Mapping[int, int]):
        self._grid, self._drawn = grid, drawn

    def get_node_ids(self) -> Iterable[int]:
        return list(self._drawn.values())

    def __getattr__(self, name: str) -> object:
        return getattr(self._grid, name)


def draw(
    nodes: Mapping[int, int], count: int | None, seed: int, stream: str, number: int
) -> dict[int, int]:
    """Return who takes part, node id by partition id; `count` None is everybody."""
    partitions = list(nodes)
    if count is not None and count < len(partitions):
        chosen = rng(seed, stream, number).choice(len(partitions), count, replace=False)
        partitions = [partitions[place] for place in sorted(chosen)]
    return {partition: nodes[partition] for partition in partitions}


def by_partition(messages: Iterable[Message], drawn: Mapping[int, int]) -> list[Message]:
    """Return messages in the order of their clients' partitions."""
    order = {node: place for place, node in enumerate(drawn.values())}
    return sorted(messages, key=lambda message: order[message.metadata.dst_node_id])


def placing(messages: Iterable[Message], drawn: Mapping[int, int]) -> Callable[[Message], int]:
    """Return what tells whose a reply to one of these messages is: its partition.

    Where a node is gone, the SuperLink answers in its place, in its own name.
    """
    partition_of = {node: partition for partition, node in drawn.items()}
    nodes = {m.metadata.message_id: m.metadata.dst_node_id for m in messages}

    def place(reply: Message) -> int:
        node = reply.metadata.src_node_id
        if node not in partition_of:
            node = nodes[reply.metadata.reply_to_message_id]
        return partition_of[node]

    return place


def why_not(reply: Message) -> str:
    """Return the first line of what an error reply says; of one of ours, its words alone."""
    told = (reply.error.reason or "no reason given").partition("\n")[0]
    if found := re.fullmatch(r"<class '(?:\w+\.)*(\w+)'>:<(['\"])(.*)\2>", told):  # Flower's way
        kind, _, words = found.groups()
        return words if kind == InputError.__name__ else f"{kind}: {words}"
    return told
