"""Nodes that come and go: of a SuperLink, or of Flower's own engine."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from operator import itemgetter
from typing import Any

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from fedalign.errors import FedalignError
from fedalign.messages.validation import MAX_EXAMPLES
from fedalign.server.delivery import push, take_answers
from fedalign.server.exchange import reason_of

log = logging.getLogger("fedalign")

MAX_PAUSE = 1.0  # seconds between two looks at which nodes are there
PATIENCE = 10.0  # seconds of waiting before the log says so
MANY = 3  # clients, of which none should have more than half of all examples


class RemoteNodes:
    """Nodes that register with a SuperLink whenever they like, and leave.

    Flower's node ids are random, and everything reproducible goes by partition id. So each node is
    asked which partition it holds. A node with data of its own may hold none; its node id is then
    its partition id.

    Args:
        grid: the run's.
        message_config: what examples look like, see `Spec.to_config`; every message says it.
        population: the number of clients; a node that states another one is refused. None: the
            number that the first node states, for engines that start the nodes themselves.
        min_available: the number of nodes that must be present; None: all of them.
        timeout: seconds to wait for them.
        dealt: returns how many training and test examples a partition has, for nodes that have no
            data of their own; None if only the nodes know.
    """

    def __init__(
        self,
        grid: Grid,
        message_config: Mapping[str, Any],
        population: int | None,
        min_available: int | None,
        timeout: float,
        dealt: Callable[[int], tuple[int, int] | None] = lambda _: None,
    ):
        self._is_open, self.population = population is None, population or 1
        self.message_config = message_config
        self.train_examples: dict[int, int] = {}
        self.test_examples: dict[int, int] = {}
        self.hold_own_data = False
        self._grid, self._min_available, self._timeout = grid, min_available, timeout
        self._dealt = dealt
        self._partition_of: dict[int, int] = {}
        self._refused: dict[int, str] = {}
        self._asked: dict[str, int] = {}  # by message id, the nodes that have not answered yet
        self._heavy: set[tuple[str, int]] = set()  # kind of examples and partition, as logged
        self._complete = False

    def present(self) -> Mapping[int, int]:
        """Return node id by partition id of the nodes present, as soon as there are enough.

        Raises:
            FedalignError: too few came within the timeout, or too many were refused.
        """
        began, pause, logged = time.monotonic(), 0.05, False
        while True:
            self._look()
            least = self._min_available or self.population
            if len(self._partition_of) >= least:
                self._complete = True
                self._warn_of_heavy()
                found = ((partition, node) for node, partition in self._partition_of.items())
                return dict(sorted(found))
            here = f"{len(self._partition_of)} of {self.population} nodes"
            if self._refused and self.population - len(self._refused) < least:
                reason = next(iter(self._refused.values()))
                raise FedalignError(f"{here} can take part, and {least} must: {reason}")
            waited = time.monotonic() - began
            if waited > self._timeout:
                raise FedalignError(f"{here} came within {self._timeout:.0f} s, and {least} must")
            if not logged and (self._complete or waited > PATIENCE):
                log.warning("waiting: %s are there, and %d must be", here, least)
                logged = True
            time.sleep(pause)
            pause = min(2 * pause, MAX_PAUSE)

    def _look(self) -> None:
        """Note which nodes have left, ask those that have come, and read what they answer.

        Nobody is waited for: a node that is slow to answer does not hold up the others.
        """
        there = set(self._grid.get_node_ids())
        for node in self._partition_of.keys() - there:
            log.warning("client %d has left", self._partition_of.pop(node))
        for node in self._refused.keys() - there:
            del self._refused[node]  # if it comes back, it is asked again
        known = self._partition_of.keys() | self._refused.keys() | set(self._asked.values())
        self._ask(sorted(there - known))
        answers = list(take_answers(self._grid, self._asked))
        for node, reply, flaw in sorted(answers, key=itemgetter(0)):
            if reply is None:
                self._refuse(node, flaw)
            elif reply.metadata.src_node_id == node:  # else it is gone: Flower answers for it
                self._admit(node, reply)

    def _ask(self, nodes: list[int]) -> None:
        record = RecordDict({"config": ConfigRecord(dict(self.message_config))})
        messages = [Message(record, node, "query.whoami") for node in nodes]
        self._asked |= push(self._grid, messages)

    def _admit(self, node: int, reply: Message) -> None:
        """Admit a node with what it says about itself, or note why it cannot take part."""
        record = reply.content.metric_records.get("whoami") if reply.has_content() else None
        answer = {key: value for key, value in (record or {}).items() if isinstance(value, int)}
        if reply.has_error():
            reason: str | None = reason_of(reply)
        elif record is None:
            reason = "its reply does not say who it is"
        else:
            reason = self._objection(answer)
        if reason:
            self._refuse(node, reason)
            return
        partition = answer.get("partition-id", node)
        self.train_examples[partition] = answer.get("examples", 1)
        self.test_examples[partition] = answer.get("tests", 0)
        self.hold_own_data = self.hold_own_data or answer.get("own", 0) > 0
        if self._complete:
            log.warning("client %d has come", partition)
        self._partition_of[node] = partition

    def _refuse(self, node: int, reason: str) -> None:
        self._refused[node] = f"node {node} cannot take part: {reason}"
        log.warning(self._refused[node])

    def _warn_of_heavy(self) -> None:
        """Log each client that outweighs all others by numbers of its own, which nobody checks."""
        if not self.hold_own_data or len(self._partition_of) < MANY:
            return
        for kind, stated in (("training", self.train_examples), ("test", self.test_examples)):
            counts = {partition: stated[partition] for partition in self._partition_of.values()}
            heaviest, whole = max(counts, key=counts.__getitem__), sum(counts.values())
            if 2 * counts[heaviest] > whole and (kind, heaviest) not in self._heavy:
                self._heavy.add((kind, heaviest))
                line = "client %d states %d of all %d %s examples: it outweighs all others"
                log.warning(line, heaviest, counts[heaviest], whole, kind)

    def _objection(self, answer: Mapping[str, int]) -> str | None:
        """Return why a node that says this about itself cannot be admitted; None: it can."""
        if self._is_open and "num-partitions" in answer:
            self._is_open, self.population = False, answer["num-partitions"]
        partition, count = answer.get("partition-id"), self.population
        if (stated := answer.get("num-partitions", count)) != count:
            return f"it says that there are {stated} partitions, and there are {count}"
        if partition is not None and not 0 <= partition < count:
            return f"it says that it holds partition {partition}, not one from 0 to {count - 1}"
        if partition in self._partition_of.values():
            return f"it holds partition {partition}, as another node does"
        for key, least in (("examples", 1), ("tests", 0)):
            if not least <= (number := answer.get(key, least)) <= MAX_EXAMPLES:
                return f"it says that it has {number} {key}, not {least} to {MAX_EXAMPLES}"
        if partition is None or answer.get("own", 0) > 0:
            return None
        dealt, says = self._dealt(partition), (answer.get("examples"), answer.get("tests"))
        if dealt not in (None, says):
            return f"it says that it has {says} training and test examples, and it has {dealt}"
        return None
