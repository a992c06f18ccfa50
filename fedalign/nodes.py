"""Who there is, and who takes part."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from operator import itemgetter
from typing import cast

from flwr.app import Message, MetricRecord, RecordDict
from flwr.serverapp import Grid

from fedalign.cohorts import CohortGrid
from fedalign.errors import FedalignError
from fedalign.rng import rng


def discover(grid: Grid, timeout: float) -> dict[int, int]:
    """Return node id by partition id, once every node of the federation has registered.

    Flower's node ids are random; everything reproducible goes by partition id. Flower's stock
    engine starts the server before its nodes are there. Our own engines know without asking.
    """
    if isinstance(grid, CohortGrid):
        return grid.partitions()
    partition_of: dict[int, int] = {}
    expected, deadline = 1, time.monotonic() + timeout
    while len(partition_of) < expected:
        fresh = [node for node in grid.get_node_ids() if node not in partition_of]
        asks = [Message(RecordDict(), node, "query.whoami") for node in fresh]
        for reply in grid.send_and_receive(asks, timeout=timeout) if asks else ():
            if reply.has_error():
                raise FedalignError(f"a node cannot say which partition it holds: {why_not(reply)}")
            told = cast(MetricRecord, reply.content["whoami"])
            partition_of[reply.metadata.src_node_id] = cast(int, told["partition-id"])
            expected = cast(int, told["num-partitions"])
        if time.monotonic() > deadline:
            come = len(partition_of)
            raise FedalignError(f"{come} of {expected} nodes came within {timeout:.0f} s")
        if not fresh:
            time.sleep(0.05)
    return {partition: node for node, partition in sorted(partition_of.items(), key=itemgetter(1))}


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


def why_not(reply: Message) -> str:
    """Return the first line of what an error reply says."""
    return (reply.error.reason or "no reason given").partition("\n")[0]
