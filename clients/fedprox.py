"""FedProx: a pull towards the global model (Li et al. 2020, MLSys)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field
from torch import Tensor

from clients.local import Local, Training


@dataclass(frozen=True)
class FedProx(Local):
    """Local loss plus mu/2 ||w - w_t||^2 (FedProx, Li et al. 2020, MLSys, eq. 2)."""

    stacked_options = Local.stacked_options

    mu: Annotated[
        float, Field(ge=0, description="weight of the proximal term; 0: as in FedAvg")
    ] = 0.01

    def correct(self, training: Training, gradient: Tensor) -> None:
        """Add mu (w - w_t)."""
        pull_towards_start(training, gradient, self.mu)

    def pull(self) -> float:
        """Return mu."""
        return self.mu


def pull_towards_start(training: Training, gradient: Tensor, mu: float) -> None:
    """Add mu (w - w_t) to gradients `(k, P)`, but to those of private weights nothing."""
    count = gradient.shape[1]
    if "public" in training.own:
        moved = training.weights[: len(gradient)] - training.start[:count]
        gradient.add_(training.public(moved), alpha=mu)
        return
    gradient.add_(training.weights[: len(gradient)], alpha=mu)
    gradient.sub_(training.start[:count], alpha=mu)
