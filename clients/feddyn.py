"""FedDyn's client: a dynamic regulariser (Acar et al. 2021, ICLR)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from clients.fedprox import pull_towards_start
from clients.local import Local, Training
from fedalign.algorithm import Trained


@dataclass(frozen=True)
class FedDyn(Local):
    """Local loss minus <g_i, w> plus alpha/2 ||w - w_t||^2 (FedDyn, Acar et al. 2021, algorithm 1).

    After a round g_i becomes `g_i - alpha (w_i - w_t)`, the gradient of the client's loss at the
    point where its training has converged. The strategy `feddyn` must have the same alpha.
    """

    stacked_options = Local.stacked_options
    other_half = "feddyn"
    stateful = True

    alpha: Annotated[
        float,
        Field(gt=0, description="weight of the regulariser; strategy and client need the same"),
    ] = 0.01

    def begin(self, training: Training) -> None:
        """Look up the g_i; they are 0 at first."""
        zeros = torch.zeros_like(training.weights[0])
        training.own["g"] = training.client_state("gradient", zeros)

    def correct(self, training: Training, gradient: Tensor) -> None:
        """Add alpha (w - w_t) - g_i."""
        pull_towards_start(training, gradient, self.alpha)
        gradient.sub_(training.own["g"][: len(gradient)])

    def pull(self) -> float:
        """Return alpha."""
        return self.alpha

    def finish(self, training: Training, result: Trained) -> None:
        """Store the new g_i."""
        start = training.start[: training.weights.shape[1]]
        moved = training.public(training.weights - start)
        result.client_state["gradient"] = training.own["g"] - self.alpha * moved
