"""FedNova: normalised averaging (Wang et al. 2020, NeurIPS)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord

from fedalign.messages.records import arrays_of
from strategies.wrapper import Wrapper, examples_of, metrics_of


@dataclass
class FedNova(Wrapper):
    """Clients' changes per step, so that many steps do not weigh more (FedNova, Wang et al. 2020).

    With p_i = n_i/n, and a_i the norm ‖a_i‖₁ of the paper (the reply's metric `normalized_steps`;
    without momentum it is the number of local steps), the new model is
    `w_t + (sum_i p_i a_i) sum_i p_i (w_i - w_t) / a_i`, the paper's eq. 6.
    """

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the base's aggregate of models that all went equally far."""
        listed, start = list(replies), self.vector(self._sent)
        steps = np.array([metrics_of(reply)["normalized_steps"] for reply in listed])
        mean_steps = np.average(steps, weights=[examples_of(reply) for reply in listed])
        for reply, own_steps in zip(listed, steps, strict=True):
            arrays = arrays_of(reply)
            self.put(start + (self.vector(arrays) - start) * (mean_steps / own_steps), arrays)
        return super().aggregate_train(server_round, listed)
