"""A strategy that wraps another one and forwards everything to it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Literal, cast

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from pydantic import Field

from fedalign.messages.validation import WEIGHT
from fedalign.network.layout import Layout

Weighting = Annotated[
    Literal["uniform", "examples"],
    Field(
        description="weight of a client in the mean; uniform: the same for all, as in the paper; "
        "examples: its number of examples"
    ),
]


@dataclass
class Wrapper(Strategy):
    """Send and aggregate as `base` does; a subclass overrides the methods that it changes.

    Args:
        base: any Flower strategy.
        layout: of the model. `vector` and `put` cover parameters only; other entries, such as
            BatchNorm's statistics, are left as the base aggregates them.
    """

    averages = False

    base: Strategy
    layout: Layout
    _sent: ArrayRecord = field(init=False, default_factory=ArrayRecord, repr=False)

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the base's messages; keeps the sent model as `_sent`."""
        self._sent = arrays
        return self.base.configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the base's aggregate and metrics."""
        return self.base.aggregate_train(server_round, replies)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the base's messages."""
        return self.base.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Return the base's metrics."""
        return self.base.aggregate_evaluate(server_round, replies)

    def summary(self) -> None:
        """Log the base's summary."""
        self.base.summary()

    def vector(self, arrays: ArrayRecord) -> np.ndarray:
        """Return the parameters in a record as one vector float64, without padding."""
        flat = [arrays[entry.name].numpy().ravel() for entry in self.layout.parameters]
        return np.concatenate(flat).astype(np.float64)

    def put(self, vector: np.ndarray, arrays: ArrayRecord) -> None:
        """Write such a vector into the parameters of a record, in place; dtypes are kept."""
        sizes = [entry.stop - entry.start for entry in self.layout.parameters]
        parts = np.split(vector, np.cumsum(sizes)[:-1])
        for entry, part in zip(self.layout.parameters, parts, strict=True):
            values = part.reshape(entry.shape)
            arrays[entry.name] = Array(values.astype(arrays[entry.name].dtype))


def metrics_of(reply: Message) -> MetricRecord:
    """Return the metrics of a training reply."""
    return next(iter(reply.content.metric_records.values()))


def examples_of(reply: Message) -> float:
    """Return the weight of a reply: its number of examples, or what `weighed` set."""
    return cast(float, metrics_of(reply)[WEIGHT])


def weighed(replies: Iterable[Message], weighting: Weighting) -> list[Message]:
    """Return the replies as a list; `uniform` sets every weight to 1, in place: a plain mean."""
    listed = list(replies)
    for reply in listed if weighting == "uniform" else ():
        metrics_of(reply)[WEIGHT] = 1
    return listed
