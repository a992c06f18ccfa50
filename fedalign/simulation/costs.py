"""What clients cost, so that workers get equal shares of the work, and what workers use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

from flwr.app import Message

from fedalign.messages.copies import node_of
from fedalign.usage import Usage


class Costs:
    """How long clients take, in seconds: a running average in which old measurements fade.

    Args:
        size: returns the amount of work of a node, in any unit. It stands in for seconds until the
            node has been measured.

    Attributes:
        used: what each worker has said last, those that are gone included.
    """

    def __init__(self, size: Callable[[int], float] = lambda _node: 1.0) -> None:
        self.size = size
        self.used: dict[Any, Usage] = {}
        self._seconds: dict[int, float] = {}
        self._usual = 1.0  # seconds for a unit
        self._warm: set[Any] = set()

    def usage(self) -> Usage:
        """Return what all workers have used."""
        return reduce(Usage.plus, list(self.used.values()), Usage())

    def of(self, group: Sequence[Message]) -> float:
        """Return the seconds that a group should take."""
        nodes = list(map(node_of, group))
        known = self._seconds
        return sum(known[n] if n in known else self._usual * self.size(n) for n in nodes)

    def learn(self, worker: Any, share: Sequence[Sequence[Message]], taken: list[float]) -> None:
        """Note the seconds of each group in a worker's call; a worker's first call is left out."""
        if worker not in self._warm:
            self._warm.add(worker)
            return
        units = (self.size(node_of(message)) for group in share for message in group)
        self._usual = sum(taken) / sum(units)
        for group, seconds in zip(share, taken, strict=True):
            nodes = list(map(node_of, group))
            a_unit = seconds / sum(map(self.size, nodes))
            for node in nodes:
                own = a_unit * self.size(node)
                self._seconds[node] = (self._seconds.get(node, own) + own) / 2
