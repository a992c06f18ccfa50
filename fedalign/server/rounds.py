"""The rounds of a federated run, around the four hooks of a Flower strategy.

Flower's own loop draws clients from the global random state, sums replies in order of arrival,
lets dtypes drift, and carries on when no client answered. Each is mended here, once, for every
strategy.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedalign.errors import FedalignError
from fedalign.messages.codec import Codec
from fedalign.messages.decoder import ReplyDecoder
from fedalign.messages.groups import GroupGrid, GroupReplies, GroupRequest
from fedalign.messages.partial_sums import averages, clients_in, group_size
from fedalign.messages.records import size_of
from fedalign.messages.round_replies import RoundReplies, measured, received
from fedalign.messages.validation import metrics_in
from fedalign.network.layout import like
from fedalign.rng import rng
from fedalign.server.callbacks import Callback, CallbackRunner
from fedalign.server.client_metrics import spread
from fedalign.server.nodes import by_partition, draw, placing, shown, why_not
from fedalign.server.round import Round

log = logging.getLogger("fedalign")

PLAIN = GroupRequest()


class RoundFailedError(FedalignError):
    """A round in which no client answered with a model that can be used."""


Keep = Callable[[int, Sequence[int]], Iterable[int]]
"""Of a round's number and partitions, those whose models are wanted."""
Present = Callable[[], Mapping[int, int]]
"""Says who is there: node id by partition id."""


def run_rounds(
    strategy: Strategy,
    grid: Grid,
    nodes: Mapping[int, int] | Present,
    arrays: ArrayRecord,
    *,
    rounds: int,
    seed: int,
    first: int = 1,
    clients_per_round: int | None = None,
    evaluate_fraction: float = 0.0,
    evaluate_every: int = 1,
    can_test: Callable[[int], bool] = lambda _partition: True,
    timeout: float = 3600.0,
    told: Mapping[str, Any] | None = None,
    stack: int = 1,
    partial_sums: bool = False,
    codec: Codec | None = None,
    max_update_norm: float | None = None,
    min_replies: int = 1,
    keep: Keep = lambda _number, _partitions: (),
    callbacks: Sequence[Callback] = (),
    overlap: Callable[[int], bool] = lambda _number: False,
) -> ArrayRecord:
    """Return the global model after `rounds` rounds.

    Args:
        strategy: any Flower strategy; it is shown only the nodes drawn for the round.
        grid: any Flower grid.
        nodes: node id by partition id; or what says who is there when a round begins.
        arrays: the global model to begin with.
        rounds: how many rounds.
        seed: decides which clients take part.
        first: the round to begin with, if `arrays` and `strategy` come from the round before it.
        clients_per_round: how many are drawn; None takes all.
        evaluate_fraction: share of the testers that evaluate the new model on their own data,
            drawn anew, whoever trained.
        evaluate_every: rounds from one such evaluation to the next; the last round has one.
        can_test: of a partition, whether it has something to test on.
        timeout: seconds to wait for the replies of one phase.
        told: what every message says beside what the strategy has to say.
        stack: how many clients are trained as one, where grid and ClientApp can.
        partial_sums: sum client models where they are trained, where grid and strategy allow it.
        codec: how models travel; None: as they are.
        max_update_norm: clients whose models moved further are left out; None: no limit.
        min_replies: how many clients must have answered with a model that can be used.
        keep: of a round's partitions, those whose models the callbacks look at.
        callbacks: called after each round, in this order.
        overlap: of a round's number, whether callbacks may be called while the next one trains.

    Raises:
        RoundFailedError: if fewer clients of a round answered with a model that can be used.
    """
    partial_sums = partial_sums and averages(strategy)

    def config() -> ConfigRecord:
        return ConfigRecord(dict(told or {}))  # strategies write into it

    with CallbackRunner(callbacks, overlap) as afterwards:
        for number in range(first, rounds + 1):
            started = time.perf_counter()

            # Draw who takes part.
            present = nodes() if callable(nodes) else nodes
            drawn = draw(present, clients_per_round, seed, "sample", number)
            looked_at = [drawn[partition] for partition in keep(number, list(drawn))]
            wanted = GroupRequest(stack, partial_sums, frozenset(looked_at), max_update_norm)

            # Train locally.
            messages = strategy.configure_train(number, arrays, config(), shown(grid, drawn))
            ordered = by_partition(messages, drawn)
            outbox = ReplyDecoder(codec, ordered, max_update_norm)
            answers = _exchange(grid, ordered, drawn, timeout, number, wanted)
            inbox = received(answers, outbox, drawn, wanted.keep)
            _report_dropped(inbox, number, min_replies)

            # Fuse. Some strategies empty the replies as they go, so they come last. And Flower's
            # differential privacy draws its noise from NumPy's global state.
            np.random.seed(rng(seed, "flower", number).integers(1 << 32))
            result, numbers = strategy.aggregate_train(number, inbox.replies)
            if result is None:
                raise RoundFailedError(f"round {number}: the strategy made no model of the replies")
            outcome = Round(number, arrays, like(result, arrays), inbox.models)
            outcome.metrics |= _scalars(numbers)
            outcome.metrics |= {"clients": inbox.clients, "dropped": inbox.dropped}
            outcome.metrics["bytes_down"] = sum(map(size_of, ordered))
            outcome.metrics["bytes_up"] = inbox.size
            arrays = outcome.after

            # Measure.
            if evaluate_fraction and (number % evaluate_every == 0 or number == rounds):
                able = {p: node for p, node in present.items() if can_test(p)}
                count = max(1, round(evaluate_fraction * len(able)))
                drawn = draw(able, count, seed, "evaluate", number)
                if drawn:  # all of them may have left
                    _let_clients_evaluate(strategy, grid, outcome, drawn, timeout, config())
            afterwards.tell(outcome, started)
    return arrays


def _let_clients_evaluate(
    strategy: Strategy,
    grid: Grid,
    outcome: Round,
    drawn: Mapping[int, int],
    timeout: float,
    config: ConfigRecord,
) -> None:
    """Add to the outcome what clients measure, each, on average, and how far they are apart."""
    number = outcome.number
    messages = strategy.configure_evaluate(number, outcome.after, config, shown(grid, drawn))
    came = _exchange(grid, by_partition(messages, drawn), drawn, timeout, number).replies
    inbox = measured(came, drawn)
    if inbox.why:
        log.warning("round %d: of those that evaluate, %s", number, inbox.told())
    outcome.evaluations = {
        inbox.partition_of[reply.metadata.src_node_id]: _scalars(metrics_in(reply.content))
        for reply in inbox.replies
    }
    told = _scalars(strategy.aggregate_evaluate(number, inbox.replies))
    told |= spread(list(outcome.evaluations.values()))
    outcome.metrics |= {f"client_{key}": value for key, value in told.items()}


def _exchange(
    grid: Grid,
    messages: list[Message],
    drawn: Mapping[int, int],
    timeout: float,
    number: int,
    wanted: GroupRequest = PLAIN,
) -> GroupReplies:
    """Return the usable replies in partition order, and models that came beside them."""
    summed = isinstance(grid, GroupGrid) and wanted.partial_sums
    if isinstance(grid, GroupGrid):
        answers = grid.exchange(messages, wanted, group_size(messages, wanted), timeout)
    else:
        answers = GroupReplies(list(grid.send_and_receive(messages, timeout=timeout)))
    place = placing(messages, drawn)
    failed = [reply for reply in answers.replies if reply.has_error()]
    good = sorted((reply for reply in answers.replies if reply.has_content()), key=place)
    answered = sum(map(clients_in, good)) if summed else len(good)
    _report_missing(len(messages), answered, failed, place, number)
    return GroupReplies(good, answers.models, summed)


def _report_missing(
    asked: int,
    answered: int,
    failed: list[Message],
    place: Callable[[Message], int],
    number: int,
) -> None:
    """Warn of clients without an answer; raise if nobody answered."""
    missing = asked - len(failed) - answered
    if failed or missing:
        lost = f"{len(failed)} of {asked} clients failed, {missing} did not answer"
        if failed:
            lost += f"; client {place(failed[0])}: {why_not(failed[0])}"
        if not answered:
            raise RoundFailedError(f"round {number}: {lost}")
        log.warning("round %d: %s", number, lost)


def _report_dropped(inbox: RoundReplies, number: int, least: int) -> None:
    """Warn of clients that are left out; raise if nobody is left, or too few are."""
    if not inbox.replies:
        raise RoundFailedError(f"round {number}: nobody is left: {inbox.told()}")
    left = inbox.clients - inbox.dropped
    if left < least:
        told = f"; {inbox.told()}" if inbox.why else ""
        raise RoundFailedError(f"round {number}: {left} usable replies, not {least}{told}")
    if inbox.why:
        log.warning("round %d: %s", number, inbox.told())


def _scalars(*records: MetricRecord | None) -> dict[str, float]:
    pairs = (pair for record in records for pair in (record or {}).items())
    return {key: value for key, value in pairs if isinstance(value, int | float)}
