"""Many clients in one call: trained together where the app can, summed where the strategy averages.

Flower's own engines know nothing of this: they call a `CohortApp` client by client.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeGuard, cast, runtime_checkable

import numpy as np
from flwr.app import (
    Array,
    ArrayRecord,
    ConfigRecord,
    Context,
    Message,
    MessageType,
    MetricRecord,
    RecordDict,
)
from flwr.clientapp import ClientApp
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

from fedalign.arrays import num_bytes, view_of
from fedalign.simulation.app import Scalar

WEIGHT = "num-examples"
BLOCK = 1 << 13  # numbers summed at a time, which stay in the cache
Pairs = Sequence[tuple[ArrayRecord, MetricRecord]]
RunConfig = Mapping[str, Scalar]
_AVERAGING = (FedAvg, FedAvgM, FedProx, FedAdagrad, FedAdam, FedYogi)
_KEY = "fused"

log = logging.getLogger("fedalign")


@dataclass(frozen=True)
class Wanted:
    """What the server asks of a group of clients.

    Attributes:
        cohort: how many clients are trained as one, at most.
        fuse: the clients' weighted mean will do in place of their models.
        keep: nodes whose own models are wanted all the same.
    """

    cohort: int = 1
    fuse: bool = False
    keep: frozenset[int] = frozenset()


@dataclass
class Answers:
    """What came back.

    Attributes:
        replies: one a client, or one for several; errors among them.
        models: by node, the models that `Wanted.keep` asked for, if they are not in the replies.
    """

    replies: list[Message] = field(default_factory=list)
    models: dict[int, ArrayRecord] = field(default_factory=dict)


class CohortApp(ClientApp):
    """A ClientApp that can also train several clients in one call, and that engines may prepare."""

    def train_many(
        self, messages: Sequence[Message], contexts: Sequence[Context], wanted: Wanted
    ) -> Answers:
        """Return the answers of several clients whose messages have one and the same content."""
        raise NotImplementedError

    def sizes(self, run_config: RunConfig, num_partitions: int) -> Sequence[float]:  # noqa: ARG002
        """Return how much each client has to do, in any unit."""
        return [1.0] * num_partitions

    def share(self, run_config: RunConfig) -> Any:  # noqa: ARG002
        """Return what all workers need, made once in the server's process."""
        return None

    def adopt(self, run_config: RunConfig, num_partitions: int, shared: Any) -> None:
        """Take, in a worker, what `share` returned; NumPy arrays in it are read-only."""


@runtime_checkable
class CohortGrid(Protocol):
    """A grid that takes whole groups of clients, and holds their states itself."""

    def partitions(self) -> dict[int, int]:
        """Return node id by partition id."""
        ...

    def exchange(
        self, messages: Sequence[Message], wanted: Wanted, group: int, timeout: float | None
    ) -> Answers:
        """Return the answers to messages, taken in groups of so many."""
        ...

    def states(self) -> dict[int, RecordDict]:
        """Return the states that clients have left, by node id."""
        ...

    def keep_state(self, node_id: int, state: RecordDict) -> None:
        """Let a node find a state when it is next asked."""
        ...


def averages(strategy: Strategy) -> bool:
    """Return whether all that a strategy does with the replies starts from their weighted mean.

    So do FedAvg and Flower's strategies on top of it. A strategy of another package says so by an
    attribute `averages`.
    """
    own = getattr(strategy, "averages", None)
    if own is not None:
        return bool(own)
    plain = getattr(strategy, "train_metrics_aggr_fn", None) is aggregate_metricrecords
    plain = plain and getattr(strategy, "weighted_by_key", None) == WEIGHT
    return plain and any(
        type(strategy).aggregate_train is known.aggregate_train for known in _AVERAGING
    )


def fuse(replies: Sequence[Message], wanted: Wanted) -> Answers:
    """Return one reply in place of several, if they can be averaged; errors stay as they are.

    Models are summed in float64, in the order of `replies`.
    """
    good = [reply for reply in replies if reply.has_content()]
    pairs = [_pair(reply) for reply in good] if wanted.fuse else []
    if not pairs or not _alike(pairs):  # if replies differ, the strategy will say so
        return Answers(list(replies))
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
    mark(first, len(good), sum(map(num_bytes, models)))
    return Answers([first, *(reply for reply in replies if reply.has_error())], kept)


def _pair(reply: Message) -> tuple[ArrayRecord, MetricRecord] | None:
    """Return the model and the metrics of a reply that has one of each."""
    records = list(reply.content.values())
    models = [record for record in records if isinstance(record, ArrayRecord)]
    metrics = [record for record in records if isinstance(record, MetricRecord)]
    return (models[0], metrics[0]) if len(models) == len(metrics) == 1 else None


def _alike(pairs: Sequence[tuple[ArrayRecord, MetricRecord] | None]) -> TypeGuard[Pairs]:
    """Return whether replies can be averaged, by the rules of Flower's FedAvg."""
    if pairs[0] is None or not isinstance(pairs[0][1].get(WEIGHT), int | float):
        return False
    keys = [record.keys() for record in pairs[0]]
    return all(pair and [record.keys() for record in pair] == keys for pair in pairs)


def mark(reply: Message, clients: int, sent: int) -> None:
    """Write on a reply how many clients it stands for, and the bytes that they would have sent."""
    reply.content[_KEY] = ConfigRecord({"clients": clients, "bytes": sent})


def clients_in(reply: Message) -> int:
    """Return how many clients a reply stands for."""
    record: Any = reply.content.get(_KEY, {"clients": 1})
    return int(record["clients"])


def unmark(reply: Message) -> tuple[int, int] | None:
    """Return what `mark` wrote, and take it off."""
    if _KEY not in reply.content:
        return None
    record: Any = reply.content.pop(_KEY)
    return record["clients"], record["bytes"]


def train_together(
    app: ClientApp, messages: Sequence[Message], contexts: Sequence[Context], wanted: Wanted
) -> Answers | None:
    """Return what the app makes of a group in one call; None if they must be called one by one.

    So after an error too: it is then the error of the client who caused it, and of no other.
    """
    training = messages[0].metadata.message_type == MessageType.TRAIN
    if not isinstance(app, CohortApp) or not training or len(messages) == 1:
        return None
    states = [RecordDict(dict(context.state)) for context in contexts]
    try:
        return app.train_many(messages, contexts, wanted)
    except Exception as error:
        log.debug("one by one, since together: %r", error)
        for context, state in zip(contexts, states, strict=True):
            context.state = state  # some may have been trained already
        return None


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
