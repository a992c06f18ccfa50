"""FedSAM: clients search for flat minima (Qu et al. 2022, ICML; Caldarola et al. 2022, ECCV)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from clients.local import Local, Training
from clients.steps import Step


@dataclass(frozen=True)
class FedSAM(Local):
    """Gradients at w + rho g/||g||, the worst point nearby (FedSAM, Qu et al. 2022, algorithm 1).

    Each step costs twice as much as FedAvg's. Fixed weights take no part in the ascent. BatchNorm
    statistics come from the first of the two passes.
    """

    stacked_options = Local.stacked_options

    rho: Annotated[
        float, Field(gt=0, description="length of the step to the worst point nearby")
    ] = 0.05

    def gradients(self, training: Training, step: Step) -> Tensor:
        """Return the losses at w; put the gradients at the perturbed weights into the optimiser."""
        count = len(step.counts)
        block, weights = training.block[:count], training.weights[:count]
        ascent = torch.zeros_like(weights)
        losses = training.gradients(step, ascent)
        before = block.clone()
        trains = training.freezer.trains(count)
        if trains is not None:
            ascent.mul_(trains)
        norms = torch.linalg.vector_norm(ascent, dim=1, keepdim=True)
        weights.add_(ascent.mul_(self.rho / norms.clamp(min=1e-12)))
        super().gradients(training, step)
        block.copy_(before)
        return losses
