"""One reply in place of several: the mean of their models, and for whom it stands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

from fedalign.messages.groups import GroupReplies, GroupRequest
from fedalign.messages.records import arrays_of
from fedalign.messages.validation import WEIGHT
from fedalign.network.arrays import num_bytes, view_of
from fedalign.settings.contracts import SaysAverages

# At most this many sums come back in a round, however many clients and workers there are;
MOST_SUMS = 32
MOST_BYTES = 1 << 28  # fewer of large models,
FEWEST_SUMS = 8  # but enough for the workers of a machine.
BLOCK = 1 << 13  # numbers summed at a time, which stay in the cache
Pairs = Sequence[tuple[ArrayRecord, MetricRecord]]
_KEY = "partial-sum"


class Mark(NamedTuple):
    """What is written on a reply that stands for several clients.

    Attributes:
        clients: how many answered.
        sent: the bytes of the arrays that they would have sent.
        left_out: by node, why a client is not in the sum. If nobody is, the reply has no model.
    """

    clients: int
    sent: int
    left_out: Mapping[int, str]


def sum_replies(
    replies: Sequence[Message], wanted: GroupRequest, flaws: Mapping[int, str] | None = None
) -> GroupReplies:
    """Return one reply in place of several, if they can be averaged; errors stay as they are.

    Models are summed in float64, in the order of `replies`, without those that have a flaw, which
    is told by node.
    """
    flaws = flaws or {}
    answered = [reply for reply in replies if reply.has_content()]
    good = [reply for reply in answered if reply.metadata.src_node_id not in flaws]
    pairs = [_pair(reply) for reply in good] if wanted.partial_sums else []
    if not (wanted.partial_sums and answered) or not _alike(pairs):  # the strategy will say so
        return GroupReplies(list(replies))
    size = sum(num_bytes(own) for r in answered for own in r.content.array_records.values())
    failed = [reply for reply in replies if reply.has_error()]
    if not good:
        return GroupReplies([nobody(answered[0], Mark(len(answered), size, flaws)), *failed])
    models, metrics = [model for model, _ in pairs], [own for _, own in pairs]
    weights = [cast(float, own[WEIGHT]) for own in metrics]
    mean = aggregate_metricrecords([RecordDict({"m": own}) for own in metrics], WEIGHT)
    mean[WEIGHT] = sum(weights)
    kept = {
        reply.metadata.src_node_id: model
        for reply, model in zip(good, models, strict=True)
        if reply.metadata.src_node_id in wanted.keep
    }
    first = good[0]
    values: dict[int, Any] = {id(models[0]): _mean(models, weights), id(metrics[0]): mean}
    for key, record in list(first.content.items()):
        if id(record) in values:
            first.content[key] = values[id(record)]
    mark(first, Mark(len(answered), size, flaws))
    return GroupReplies([first, *failed], kept)


def _pair(reply: Message) -> tuple[ArrayRecord, MetricRecord] | None:
    """Return the model and the metrics of a reply that has one of each."""
    records = list(reply.content.values())
    models = [record for record in records if isinstance(record, ArrayRecord)]
    metrics = [record for record in records if isinstance(record, MetricRecord)]
    return (models[0], metrics[0]) if len(models) == len(metrics) == 1 else None


def _alike(pairs: Sequence[tuple[ArrayRecord, MetricRecord] | None]) -> TypeGuard[Pairs]:
    """Return whether replies can be averaged, by the rules of Flower's FedAvg."""
    if not pairs:
        return True
    if pairs[0] is None or not isinstance(pairs[0][1].get(WEIGHT), int | float):
        return False
    keys = [record.keys() for record in pairs[0]]
    return all(pair and [record.keys() for record in pair] == keys for pair in pairs)


def mark(reply: Message, told: Mark) -> None:
    """Write on a reply for how many clients it stands, and who is left out."""
    record = ConfigRecord({"clients": told.clients, "bytes": told.sent})
    if told.left_out:
        record["nodes"], record["why"] = list(told.left_out), list(told.left_out.values())
    reply.content[_KEY] = record


def nobody(reply: Message, told: Mark) -> Message:
    """Return a client's reply as that of a group of which all are left out."""
    reply.content = RecordDict()
    mark(reply, told)
    return reply


def clients_in(reply: Message) -> int:
    """Return how many clients a reply stands for."""
    record: Any = reply.content.get(_KEY, {"clients": 1})
    return int(record["clients"])


def unmark(reply: Message) -> Mark | None:
    """Return what `mark` wrote, and take it off."""
    if _KEY not in reply.content:
        return None
    record: Any = reply.content.pop(_KEY)
    nodes, why = record.get("nodes", []), record.get("why", [])
    return Mark(record["clients"], record["bytes"], dict(zip(nodes, why, strict=True)))


def _mean(models: Sequence[ArrayRecord], weights: Sequence[float]) -> ArrayRecord:
    if len(models) == 1:
        return models[0]
    return ArrayRecord(
        {name: Array(_weighted([m[name] for m in models], weights)) for name in models[0]}
    )


def _weighted(arrays: Sequence[Array], weights: Sequence[float]) -> np.ndarray:
    """Return the weighted mean, of the arrays' type, or float64 for integers."""
    views = [view_of(array) for array in arrays]
    kind = views[0].dtype if np.issubdtype(views[0].dtype, np.floating) else np.dtype(np.float64)
    mean, flat, total = np.empty(views[0].size, kind), [v.ravel() for v in views], sum(weights)
    summed, term = np.empty(BLOCK), np.empty(BLOCK)
    for start in range(0, mean.size, BLOCK):
        count = min(BLOCK, mean.size - start)
        part, a, b = slice(start, start + count), summed[:count], term[:count]
        np.multiply(flat[0][part], weights[0], out=a, dtype=np.float64)
        for vector, weight in zip(flat[1:], weights[1:], strict=True):
            a += np.multiply(vector[part], weight, out=b, dtype=np.float64)
        np.divide(a, total, out=mean[part], casting="same_kind")
    return mean.reshape(views[0].shape)


_AVERAGING = (FedAvg, FedAvgM, FedProx, FedAdagrad, FedAdam, FedYogi)


def averages(strategy: Strategy) -> bool:
    """Return whether all that a strategy does with the replies starts from their weighted mean.

    So do FedAvg and Flower's strategies on top of it. A strategy of another package says so by an
    attribute `averages`.
    """
    if isinstance(strategy, SaysAverages):
        return strategy.averages
    plain = getattr(strategy, "train_metrics_aggr_fn", None) is aggregate_metricrecords
    plain = plain and getattr(strategy, "weighted_by_key", None) == WEIGHT
    return plain and any(
        type(strategy).aggregate_train is known.aggregate_train for known in _AVERAGING
    )


def group_size(messages: Sequence[Message], wanted: GroupRequest) -> int:
    """Return how many clients are dealt out, and summed, together."""
    if not wanted.partial_sums:
        return wanted.stack
    sums = most_sums(num_bytes(arrays_of(messages[0])))
    return max(wanted.stack, -(-len(messages) // sums))


def most_sums(size: int) -> int:
    """Return how many sums of models of `size` bytes may come back in a round."""
    return min(MOST_SUMS, max(FEWEST_SUMS, MOST_BYTES // max(size, 1)))
