"""FedNova: normalised averaging (Wang et al. 2020, NeurIPS)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from flwr.app import ArrayRecord, Message, MetricRecord

from fedalign.wire import arrays_of
from strategies.wrapper import Wrapper, examples_of, metrics_of


@dataclass
class FedNova(Wrapper):
    """Clients' changes per step, so that many steps do not weigh more (FedNova, Wang et al. 2020).

    With p_i = n_i/n and a_i the worth of a client's steps (its reply's `effort`: their number, more
    with momentum): `w_t + (sum_i p_i a_i) sum_i p_i (w_i - w_t) / a_i`, the paper's eq. 6.
    """

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the base's aggregate of models that all went equally far."""
        listed, start = list(replies), self.vector(self._sent)
        efforts = np.array([metrics_of(reply)["effort"] for reply in listed])
        common = np.average(efforts, weights=[examples_of(reply) for reply in listed])
        for reply, effort in zip(listed, efforts, strict=True):
            arrays = arrays_of(reply)
            self.put(start + (self.vector(arrays) - start) * (common / effort), arrays)
        return super().aggregate_train(server_round, listed)
