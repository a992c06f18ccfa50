"""FedDyn's server half of the dynamic regulariser (Acar et al. 2021, ICLR)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord
from pydantic import Field

from strategies.wrapper import Weighting, Wrapper, weighed


@dataclass
class FedDyn(Wrapper):
    """Make client optima agree with the global optimum (FedDyn, Acar et al. 2021, algorithm 1).

    With m clients, of which the set S takes part: `h -= alpha |S|/m (mean_i w_i - w_t)`, and the
    new model is `mean_i w_i - h / alpha`. The client `feddyn` has the other half; it needs the same
    alpha. `h` is float64, without padding.
    """

    other_half = "feddyn"

    num_clients: int
    alpha: Annotated[
        float,
        Field(gt=0, description="weight of the regulariser; strategy and client need the same"),
    ] = 0.01
    weighting: Weighting = "uniform"
    h: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.h = np.zeros(self.layout.num_parameters)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the mean model minus `h / alpha`, and the base's metrics; updates `h`."""
        listed = weighed(replies, self.weighting)
        arrays, metrics = super().aggregate_train(server_round, listed)
        if arrays is not None:
            mean, share = self.vector(arrays), len(listed) / self.num_clients
            self.h -= self.alpha * share * (mean - self.vector(self._sent))
            self.put(mean - self.h / self.alpha, arrays)
        return arrays, metrics
