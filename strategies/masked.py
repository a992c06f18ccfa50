"""What FedPFN and FedPNU share: a mask plan for each round, around any Flower strategy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy
from pydantic import Field

from fedalign.cohorts import averages
from fedalign.masks import MaskPlan, trained
from fedalign.parameters import Layout
from fedalign.wire import write_plan

FixedRatio = Annotated[float, Field(ge=0, le=1, description="share of the weights with mask 0")]


class Masked(Strategy):
    """A Flower strategy that trains under `plan(server_round)` and aggregates as `base` does.

    Args:
        base: any Flower strategy.
        layout: the model's.
        seed: the run's; masks are drawn from it.
        fixed_ratio: share of the weights to which the mask gives 0.
    """

    def __init__(
        self, base: Strategy, layout: Layout, seed: int, fixed_ratio: FixedRatio = 0.4
    ) -> None:
        self.base, self.layout = base, layout
        self.seed, self.fixed_ratio = seed, fixed_ratio
        self._sent = ArrayRecord()

    @property
    def averages(self) -> bool:
        """Whether the base starts from the weighted mean of the replies."""
        return averages(self.base)

    def plan(self, server_round: int) -> MaskPlan:
        """Return the round's mask plan."""
        raise NotImplementedError

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the base's messages, with the mask plan in their configuration."""
        self._sent = arrays
        write_plan(self.plan(server_round), config)
        return self.base.configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the base's aggregate, in which fixed weights are copied and not averaged.

        The float32 average of equal numbers is not always that number, and a server optimiser
        with momentum moves weights that nobody trained.
        """
        arrays, metrics = self.base.aggregate_train(server_round, replies)
        moved = trained(self.plan(server_round), self.layout)
        if arrays is not None and moved is not None:
            for entry in self.layout.parameters:
                free = entry.view(moved).numpy()
                before, after = self._sent[entry.name].numpy(), arrays[entry.name].numpy()
                arrays[entry.name] = Array(np.where(free, after, before))
        return arrays, metrics

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
