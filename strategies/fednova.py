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
    """Average changes per local step, so more steps do not weigh more (FedNova, Wang et al. 2020).

    With p_i = n_i/n and a_i the paper's ‖a_i‖₁, the new model is
    `w_t + tau_eff sum_i p_i (w_i - w_t) / a_i`, where `tau_eff = sum_i p_i a_i` (eq. 6). Clients
    report a_i as the metric `normalized_steps`; without momentum it is the number of local steps.
    """

    reply_metrics = {"normalized_steps": (1e-3, 1e6)}  # noqa: RUF012
    same_for_all = ("lr", "lr_schedule", "lr_decay", "optimizer")  # a_i is in units of lr

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the base's aggregate of models whose changes are scaled by `tau_eff / a_i`."""
        listed, w_t = list(replies), self.vector(self._sent)
        a = np.array([metrics_of(reply)["normalized_steps"] for reply in listed])
        tau_eff = np.average(a, weights=[examples_of(reply) for reply in listed])
        for reply, a_i in zip(listed, a, strict=True):
            arrays = arrays_of(reply)
            self.put(w_t + (self.vector(arrays) - w_t) * (tau_eff / a_i), arrays)
        return super().aggregate_train(server_round, listed)
