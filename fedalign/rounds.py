"""The rounds of a federated run, around the four hooks of a Flower strategy.

Flower's own loop draws clients from the global random state, sums replies in order of arrival,
lets dtypes drift, and carries on when no client answered. Each is mended here, once, for every
strategy.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Protocol, cast

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedalign.errors import FedalignError
from fedalign.parameters import like, num_bytes
from fedalign.rng import rng
from fedalign.wire import arrays_of

log = logging.getLogger("fedalign")


class RoundFailedError(FedalignError):
    """A round in which no client answered with a model."""


@dataclass
class Round:
    """One finished round, as callbacks see it.

    Attributes:
        number: from 1.
        before: the global model that was sent.
        after: the global model that came of it.
        clients: the models that came back, by partition id, in that order.
        metrics: numbers for `metrics.csv`; callbacks add theirs.
    """

    number: int
    before: ArrayRecord
    after: ArrayRecord
    clients: Mapping[int, ArrayRecord]
    metrics: dict[str, float] = field(default_factory=dict)


class Callback(Protocol):
    """Something that happens after each round: measuring, writing, showing."""

    def on_round(self, outcome: Round) -> None:
        """Look at a round; may add to its metrics for the callbacks that follow."""


def run_rounds(
    strategy: Strategy,
    grid: Grid,
    nodes: Mapping[int, int],
    arrays: ArrayRecord,
    *,
    rounds: int,
    seed: int,
    clients_per_round: int | None = None,
    evaluate_fraction: float = 0.0,
    timeout: float = 3600.0,
    callbacks: Sequence[Callback] = (),
) -> ArrayRecord:
    """Return the global model after `rounds` rounds.

    Args:
        strategy: any Flower strategy; it is shown only the nodes drawn for the round.
        grid: any Flower grid.
        nodes: node id by partition id, see `discover`.
        arrays: the global model to begin with.
        rounds: how many rounds.
        seed: decides which clients take part.
        clients_per_round: how many are drawn; None takes all.
        evaluate_fraction: share of the clients that evaluate the new model on their own data.
        timeout: seconds to wait for the replies of one phase.
        callbacks: called after each round, in this order.

    Raises:
        RoundFailedError: if no client of a round answered with a model.
    """
    for number in range(1, rounds + 1):
        started = time.perf_counter()

        # Draw who takes part.
        drawn = _draw(nodes, clients_per_round, seed, "sample", number)

        # Train locally.
        messages = strategy.configure_train(number, arrays, ConfigRecord(), _shown(grid, drawn))
        ordered = _by_partition(messages, drawn)
        replies = _exchange(grid, ordered, drawn, timeout, number)

        # Fuse. Some strategies empty the replies as they go, so the client models are kept apart.
        clients = {p: ArrayRecord(dict(arrays_of(m))) for p, m in replies}
        fused, numbers = strategy.aggregate_train(number, [m for _, m in replies])
        if fused is None:
            raise RoundFailedError(f"round {number}: the strategy made no model of the replies")
        outcome = Round(number, arrays, like(fused, arrays), clients)
        outcome.metrics |= _scalars(numbers)
        outcome.metrics["clients"] = len(replies)
        outcome.metrics["bytes_down"] = sum(num_bytes(arrays_of(m)) for m in ordered)
        outcome.metrics["bytes_up"] = sum(num_bytes(model) for model in clients.values())
        arrays = outcome.after

        # Measure.
        if evaluate_fraction:
            count = max(1, round(evaluate_fraction * len(nodes)))
            drawn = _draw(nodes, count, seed, "evaluate", number)
            messages = strategy.configure_evaluate(
                number, arrays, ConfigRecord(), _shown(grid, drawn)
            )
            answers = _exchange(grid, _by_partition(messages, drawn), drawn, timeout, number)
            numbers = strategy.aggregate_evaluate(number, [m for _, m in answers])
            outcome.metrics |= {f"client_{k}": v for k, v in _scalars(numbers).items()}
        for callback in callbacks:
            outcome.metrics["seconds"] = time.perf_counter() - started
            callback.on_round(outcome)
    return arrays


def discover(grid: Grid, timeout: float) -> dict[int, int]:
    """Return node id by partition id, once every node of the federation has registered.

    Flower's node ids are random; everything reproducible goes by partition id. Flower's stock
    engine starts the server before its nodes are there.
    """
    partition_of: dict[int, int] = {}
    expected, deadline = 1, time.monotonic() + timeout
    while len(partition_of) < expected:
        fresh = [node for node in grid.get_node_ids() if node not in partition_of]
        asks = [Message(RecordDict(), node, "query.whoami") for node in fresh]
        for reply in grid.send_and_receive(asks, timeout=timeout) if asks else ():
            if reply.has_error():
                raise FedalignError(f"a node cannot say which partition it holds: {_why(reply)}")
            told = cast(MetricRecord, reply.content["whoami"])
            partition_of[reply.metadata.src_node_id] = cast(int, told["partition-id"])
            expected = cast(int, told["num-partitions"])
        if time.monotonic() > deadline:
            come = len(partition_of)
            raise FedalignError(f"{come} of {expected} nodes came within {timeout:.0f} s")
        if not fresh:
            time.sleep(0.05)
    return {partition: node for node, partition in sorted(partition_of.items(), key=itemgetter(1))}


def _shown(grid: Grid, drawn: Mapping[int, int]) -> Grid:
    return cast(Grid, _Shown(grid, drawn))  # strategies ask a grid for nothing but its nodes


class _Shown:
    """A grid on which only the nodes drawn for this round can be seen."""

    def __init__(self, grid: Grid, drawn: Mapping[int, int]):
        self._grid, self._drawn = grid, drawn

    def get_node_ids(self) -> Iterable[int]:
        return list(self._drawn.values())

    def __getattr__(self, name: str) -> object:
        return getattr(self._grid, name)


def _draw(
    nodes: Mapping[int, int], count: int | None, seed: int, stream: str, number: int
) -> dict[int, int]:
    partitions = sorted(nodes)
    if count is not None and count < len(partitions):
        chosen = rng(seed, stream, number).choice(partitions, count, replace=False)
        partitions = sorted(int(partition) for partition in chosen)
    return {partition: nodes[partition] for partition in partitions}


def _by_partition(messages: Iterable[Message], drawn: Mapping[int, int]) -> list[Message]:
    order = {node: place for place, node in enumerate(drawn.values())}
    return sorted(messages, key=lambda message: order[message.metadata.dst_node_id])


def _exchange(
    grid: Grid, messages: list[Message], drawn: Mapping[int, int], timeout: float, number: int
) -> list[tuple[int, Message]]:
    """Return the usable replies with their partitions, in partition order."""
    partition_of = {node: partition for partition, node in drawn.items()}
    replies = list(grid.send_and_receive(messages, timeout=timeout))
    failed = [reply for reply in replies if reply.has_error()]
    good = sorted(
        ((partition_of[r.metadata.src_node_id], r) for r in replies if r.has_content()),
        key=lambda pair: pair[0],
    )
    missing = len(messages) - len(replies)
    if failed or missing:
        lost = f"{len(failed)} of {len(messages)} clients failed, {missing} did not answer"
        for reply in failed[:1]:
            lost += f"; client {partition_of[reply.metadata.src_node_id]}: {_why(reply)}"
        if not good:
            raise RoundFailedError(f"round {number}: {lost}")
        log.warning("round %d: %s", number, lost)
    return good


def _why(reply: Message) -> str:
    return (reply.error.reason or "no reason given").partition("\n")[0]


def _scalars(metrics: MetricRecord | None) -> dict[str, float]:
    return {k: v for k, v in (metrics or {}).items() if isinstance(v, int | float)}
