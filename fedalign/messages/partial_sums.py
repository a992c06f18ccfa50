"""Partial aggregation: one reply, the weighted mean of several clients' models, in their place."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from math import frexp
from typing import Any, NamedTuple, TypeGuard, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.serverapp.strategy import (
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedProx,
    FedYogi,
    Strategy,
)
from flwr.serverapp.strategy.strategy_utils import aggregate_metricrecords

from fedalign.messages.copies import records_in
from fedalign.messages.groups import GroupReplies, GroupRequest
from fedalign.messages.records import LOSS, arrays_of, size_of
from fedalign.messages.validation import WEIGHT
from fedalign.network.arrays import LazyArray, num_bytes, record_of, view_of
from fedalign.settings.contracts import SaysAverages

log = logging.getLogger("fedalign")

# The number of partial sums in a round is at most MAX_SUMS, however many clients and workers there
# are. Large models have fewer, MAX_BYTES in all, but still MIN_SUMS to keep a machine's cores busy.
MAX_SUMS = 32
MAX_BYTES = 1 << 28
MIN_SUMS = 8
BLOCK = 1 << 15  # numbers that are summed at a time: they stay in the cache
Pairs = Sequence[tuple[ArrayRecord, MetricRecord]]
_MARK = "partial-sum"
_AVERAGING = (FedAvg, FedAvgM, FedProx, FedAdagrad, FedAdam, FedYogi)


def averages(strategy: Strategy) -> bool:
    """Return whether a strategy uses nothing of the replies but their weighted mean.

    This holds for FedAvg and for Flower's strategies that build on it. A strategy of another
    package says so with an attribute `averages`.
    """
    if isinstance(strategy, SaysAverages):
        return strategy.averages
    plain = getattr(strategy, "train_metrics_aggr_fn", None) is aggregate_metricrecords
    plain = plain and getattr(strategy, "weighted_by_key", None) == WEIGHT
    return plain and any(
        type(strategy).aggregate_train is known.aggregate_train for known in _AVERAGING
    )


def group_size(messages: Sequence[Message], request: GroupRequest) -> int:
    """Return how many clients are dealt to a worker, and summed, together."""
    if not request.partial_sums:
        return request.stack
    sums = max_sums(num_bytes(arrays_of(messages[0])))
    return max(request.stack, -(-len(messages) // sums))


def max_sums(size: int) -> int:
    """Return how many partial sums of models of `size` bytes a round may have."""
    return min(MAX_SUMS, max(MIN_SUMS, MAX_BYTES // max(size, 1)))


class Mark(NamedTuple):
    """Written on a reply that stands for several clients.

    Attributes:
        clients: how many answered.
        num_bytes: the size of the arrays that they would have sent.
        left_out: by node, why a client is not in the sum. If no client is, there is no model.
        losses: by node, the training losses of the clients that are, where they are known.
    """

    clients: int
    num_bytes: int
    left_out: Mapping[int, str]
    losses: Mapping[int, float] = {}


def put_mark(reply: Message, mark: Mark) -> None:
    """Write on a reply for how many clients it stands, and who is left out."""
    record = ConfigRecord({"clients": mark.clients, "bytes": mark.num_bytes})
    if mark.left_out:
        record["nodes"], record["why"] = list(mark.left_out), list(mark.left_out.values())
    if mark.losses:
        record["used"], record["losses"] = list(mark.losses), list(mark.losses.values())
    reply.content[_MARK] = record


def take_mark(reply: Message) -> Mark | None:
    """Return what `put_mark` wrote, and take it off the reply."""
    if _MARK not in reply.content:
        return None
    record: Any = reply.content.pop(_MARK)
    left_out = dict(zip(record.get("nodes", []), record.get("why", []), strict=True))
    losses = dict(zip(record.get("used", []), record.get("losses", []), strict=True))
    return Mark(record["clients"], record["bytes"], left_out, losses)


def clients_in(reply: Message) -> int:
    """Return how many clients a reply stands for."""
    record: Any = reply.content.get(_MARK, {"clients": 1})
    return int(record["clients"])


def empty_sum(reply: Message, mark: Mark) -> Message:
    """Return a reply as that of a group in which all clients are left out."""
    reply.content = RecordDict()
    put_mark(reply, mark)
    return reply


def sum_replies(
    replies: Sequence[Message], request: GroupRequest, flaws: Mapping[int, str]
) -> GroupReplies:
    """Return one reply in place of several, if they can be averaged; errors stay as they are.

    Models are summed in float64, in the order of `replies`.

    Args:
        replies: of one group of clients.
        request: says whether a sum will do, and whose models are wanted beside it.
        flaws: by node, why a reply must not be in the sum.
    """
    answered = [reply for reply in replies if reply.has_content()]
    usable = [reply for reply in answered if reply.metadata.src_node_id not in flaws]
    pairs = [_pair(reply) for reply in usable] if request.partial_sums else []
    if not (request.partial_sums and answered) or not _alike(pairs):  # the strategy will say so
        return GroupReplies(list(replies))
    losses = {
        reply.metadata.src_node_id: loss
        for reply, (_, own) in zip(usable, pairs, strict=True)
        if isinstance(loss := own.get(LOSS), float)
    }
    mark = Mark(len(answered), sum(map(size_of, answered)), flaws, losses)
    failed = [r for r in replies if r.has_error()]
    if not usable:
        return GroupReplies([empty_sum(answered[0], mark), *failed])
    wanted = {
        reply.metadata.src_node_id: model
        for reply, (model, _) in zip(usable, pairs, strict=True)
        if reply.metadata.src_node_id in request.models_of
    }
    first = usable[0]
    _replace_by_means(first, pairs)
    put_mark(first, mark)
    return GroupReplies([first, *failed], wanted)


def counted(messages: Sequence[Message], replies: list[Message]) -> list[Message]:
    """Return the replies; log it if no client counts, since Flower's strategies divide by the sum.

    Args:
        messages: of a round.
        replies: to them, with the `num-examples` that any Flower app has.
    """
    contents = [reply.content for reply in replies if reply.has_content()]
    records = [records_in(content, MetricRecord).values() for content in contents]
    counts = [record[WEIGHT] for own in records for record in own if WEIGHT in record]
    if counts and not any(counts):
        config: Any = messages[0].content.get("config", {})
        line = "round %s: all of %d clients reply with %r 0, so none of them counts in an average"
        log.warning(line, config.get("server-round", "?"), len(counts), WEIGHT)
    return replies


def mean_metrics(metrics: Sequence[MetricRecord]) -> MetricRecord:
    """Return the weighted mean of clients' metrics, with the sum of the weights as its weight."""
    mean = aggregate_metricrecords([RecordDict({"m": own}) for own in metrics], WEIGHT)
    mean[WEIGHT] = sum(cast(float, own[WEIGHT]) for own in metrics)
    return mean


def _pair(reply: Message) -> tuple[ArrayRecord, MetricRecord] | None:
    """Return the model and the metrics of a reply that has one of each."""
    models = list(records_in(reply.content, ArrayRecord).values())
    metrics = list(records_in(reply.content, MetricRecord).values())
    return (models[0], metrics[0]) if len(models) == len(metrics) == 1 else None


def _alike(pairs: Sequence[tuple[ArrayRecord, MetricRecord] | None]) -> TypeGuard[Pairs]:
    """Return whether replies can be averaged, by the rules of Flower's FedAvg."""
    if not pairs:
        return True
    if pairs[0] is None or not isinstance(pairs[0][1].get(WEIGHT), int | float):
        return False
    keys = [record.keys() for record in pairs[0]]
    return all(pair and [record.keys() for record in pair] == keys for pair in pairs)


def _replace_by_means(reply: Message, pairs: Pairs) -> None:
    """Replace the model and the metrics in the first of several replies by the means of all."""
    models, metrics = [model for model, _ in pairs], [own for _, own in pairs]
    weights = [cast(float, own[WEIGHT]) for own in metrics]
    means: dict[int, Any] = {
        id(models[0]): _mean(models, weights),
        id(metrics[0]): mean_metrics(metrics),
    }
    for key, record in list(reply.content.items()):
        if id(record) in means:
            reply.content[key] = means[id(record)]


def _mean(models: Sequence[ArrayRecord], weights: Sequence[float]) -> ArrayRecord:
    if len(models) == 1:
        return models[0]
    return record_of(
        {name: LazyArray(_weighted_mean([m[name] for m in models], weights)) for name in models[0]}
    )


def _weighted_mean(arrays: Sequence[Array], weights: Sequence[float]) -> np.ndarray:
    """Return the weighted mean in the dtype of the arrays; in float64 if they are integers."""
    views = [view_of(array) for array in arrays]
    dtype = views[0].dtype if np.issubdtype(views[0].dtype, np.floating) else np.dtype(np.float64)
    mean, flat = np.empty(views[0].size, dtype), [view.ravel() for view in views]
    factors = [float(weight) for weight in weights]
    if dtype.itemsize < 8 and len(set(factors)) == 1 and factors[0] and factors[0].is_integer():
        factors = [1.0] * len(factors)  # the same bits, since float64 holds the products exactly
    total, size = sum(factors), min(BLOCK, mean.size)
    summed, term = np.empty(size), np.empty(size)
    for start in range(0, mean.size, BLOCK):
        part = slice(start, min(start + BLOCK, mean.size))
        a, b = summed[: part.stop - start], term[: part.stop - start]
        _copy_scaled(a, flat[0][part], factors[0])
        for vector, factor in zip(flat[1:], factors[1:], strict=True):
            _copy_scaled(b, vector[part], factor)
            a += b
        if frexp(total)[0] == 0.5:  # a power of two: the product is the quotient, and quicker
            a *= 1 / total
        else:
            a /= total
        np.copyto(mean[part], a, casting="same_kind")
    return mean.reshape(views[0].shape)


def _copy_scaled(target: np.ndarray, source: np.ndarray, factor: float) -> None:
    """Write `factor` times the source, in float64 and without a temporary."""
    np.copyto(target, source, casting="same_kind")
    if factor != 1.0:
        target *= factor
