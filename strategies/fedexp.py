"""FedExP: the server step by extrapolation (Jhunjhunwala, Wang and Joshi 2023, ICLR)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord
from pydantic import Field

from fedalign.messages.records import arrays_of
from strategies.wrapper import Wrapper, examples_of


@dataclass
class FedExP(Wrapper):
    """A server step longer than 1 where clients disagree (FedExP, Jhunjhunwala et al. 2023, eq. 7).

    With the clients' changes D_i, their mean D and p_i = n_i/n:
    `eta = max(1, sum_i p_i ||D_i||^2 / (2 (||D||^2 + eps)))`, and the new model is `w_t + eta D`.
    The paper weighs clients alike; here they weigh what the base makes them weigh, by examples.
    """

    eps: Annotated[float, Field(ge=0, description="keeps the step from growing late")] = 1e-3

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the extrapolated aggregate; its step is the metric `server_step`."""
        listed, start = list(replies), self.vector(self._sent)
        squares = [np.square(self.vector(arrays_of(reply)) - start).sum() for reply in listed]
        weights = [examples_of(reply) for reply in listed]
        arrays, metrics = super().aggregate_train(server_round, listed)
        if arrays is not None:
            change = self.vector(arrays) - start
            mean = np.average(squares, weights=weights)
            step = max(1.0, float(mean / (2 * (np.square(change).sum() + self.eps))))
            self.put(start + step * change, arrays)
            if metrics is not None:
                metrics["server_step"] = step
        return arrays, metrics
