"""Many clients in one call: trained together where the app can, summed where the strategy averages.

Flower's own engines know nothing of this: they call a `CohortApp` client by client.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from flwr.app import ArrayRecord, Context, Message, MessageType, RecordDict
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

from fedalign.checks import WEIGHT, flaw_of
from fedalign.simulation.app import Scalar

RunConfig = Mapping[str, Scalar]
_AVERAGING = (FedAvg, FedAvgM, FedProx, FedAdagrad, FedAdam, FedYogi)

log = logging.getLogger("fedalign")


@dataclass(frozen=True)
class Wanted:
    """What the server asks of a group of clients.

    Attributes:
        cohort: how many clients are trained as one, at most.
        fuse: the clients' weighted mean will do in place of their models.
        keep: nodes whose own models are wanted all the same.
        most: how far a model that is summed may have moved, see `Config.max_update_norm`.
    """

    cohort: int = 1
    fuse: bool = False
    keep: frozenset[int] = frozenset()
    most: float | None = None


@dataclass
class Answers:
    """What came back.

    Attributes:
        replies: one a client, or one for several; errors among them.
        models: by node, the models that `Wanted.keep` asked for, if they are not in the replies.
        summed: replies may stand for several clients, and say so by a `Mark`.
    """

    replies: list[Message] = field(default_factory=list)
    models: dict[int, ArrayRecord] = field(default_factory=dict)
    summed: bool = False


class CohortApp(ClientApp):
    """A ClientApp that can also train several clients in one call, and that engines may prepare."""

    def train_many(
        self, messages: Sequence[Message], contexts: Sequence[Context], wanted: Wanted
    ) -> Answers:
        """Return the answers of several clients whose messages have one and the same content."""
        raise NotImplementedError

    def flaw(
        self,
        message: Message,
        context: Context,  # noqa: ARG002
        reply: Message,
        most: float | None,
    ) -> str | None:
        """Return why a client's reply to a message cannot be summed; None if it can."""
        return flaw_of(message, reply, most)

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


def flaws(
    app: ClientApp,
    messages: Sequence[Message],
    contexts: Sequence[Context],
    replies: Sequence[Message],
    wanted: Wanted,
) -> dict[int, str]:
    """Return by node why its reply cannot be summed, where replies are; errors are told already."""
    found: dict[int, str] = {}
    for message, context, reply in zip(messages, contexts, replies, strict=True):
        if not wanted.fuse or reply.has_error():
            continue
        if isinstance(app, CohortApp):
            flaw = app.flaw(message, context, reply, wanted.most)
        else:
            flaw = flaw_of(message, reply, wanted.most)
        found |= {message.metadata.dst_node_id: flaw} if flaw else {}
    return found


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
