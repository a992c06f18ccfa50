"""Which clients take part in a phase of a round, and how their messages are ordered."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import cast

from flwr.app import Message
from flwr.serverapp import Grid

from fedalign.messages.copies import node_of
from fedalign.rng import rng


@dataclass(frozen=True)
class Sample:
    """The clients sampled to train, or to evaluate, in one round.

    Attributes:
        nodes: node id by partition id, in order of partitions.
    """

    nodes: Mapping[int, int]

    @cached_property
    def partition_of(self) -> dict[int, int]:
        """Partition id by node id."""
        return {node: partition for partition, node in self.nodes.items()}

    def ordered(self, messages: Iterable[Message]) -> list[Message]:
        """Return messages in the order of their clients' partitions."""
        place = {node: place for place, node in enumerate(self.nodes.values())}
        return sorted(messages, key=lambda message: place[node_of(message)])

    def grid(self, grid: Grid) -> Grid:
        """Return the grid on which a strategy sees only these clients' nodes."""
        return cast(Grid, _SampledGrid(grid, list(self.nodes.values())))


def sample(
    nodes: Mapping[int, int], count: int | None, seed: int, stream: str, number: int
) -> Sample:
    """Return `count` clients of `nodes` (node id by partition id), drawn at random; None: all.

    The draw depends on the seed, the stream's name, the round's number and which partitions there
    are; never on node ids, which Flower draws at random.
    """
    partitions = list(nodes)
    if count is not None and count < len(partitions):
        chosen = rng(seed, stream, number).choice(len(partitions), count, replace=False)
        partitions = [partitions[place] for place in sorted(chosen)]
    return Sample({partition: nodes[partition] for partition in partitions})


class _SampledGrid:
    """A grid with fewer nodes. Strategies ask a grid for nothing but its nodes."""

    def __init__(self, grid: Grid, node_ids: list[int]):
        self._grid, self._node_ids = grid, node_ids

    def get_node_ids(self) -> Iterable[int]:
        return self._node_ids

    def __getattr__(self, name: str) -> object:
        return getattr(self._grid, name)
