"""FedExP: server step sizes by extrapolation (Jhunjhunwala, Wang and Joshi 2023, ICLR)."""

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
    """A server step longer than 1 when clients disagree (FedExP, Jhunjhunwala et al. 2023, eq. 7).

    With the clients' changes D_i, their mean D and p_i = n_i/n:
    `eta = max(1, sum_i p_i ||D_i||^2 / (2 (||D||^2 + eps)))`, and the new model is `w_t + eta D`.
    In the paper all clients have equal weights; here the base sets them, by number of examples.
    """

    eps: Annotated[
        float,
        Field(
            ge=0,
            description="added to the squared norm of the mean change, so that steps stay finite "
            "when changes are small",
        ),
    ] = 1e-3

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the extrapolated aggregate; the metric `server_step` is eta."""
        listed, w_t = list(replies), self.vector(self._sent)
        squares = [np.square(self.vector(arrays_of(reply)) - w_t).sum() for reply in listed]
        n = [examples_of(reply) for reply in listed]
        arrays, metrics = super().aggregate_train(server_round, listed)
        if arrays is not None:
            delta = self.vector(arrays) - w_t
            mean = np.average(squares, weights=n)
            eta = max(1.0, float(mean / (2 * (np.square(delta).sum() + self.eps))))
            self.put(w_t + eta * delta, arrays)
            if metrics is not None:
                metrics["server_step"] = eta
        return arrays, metrics
