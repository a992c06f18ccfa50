"""Losses calibrated by how rare each class is on a client: FedLC and balanced softmax."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from clients.local import OWN_STEPS, Local, Training
from fedalign.network.losses import Loss, losses_of


@dataclass(frozen=True)
class Calibrated(Local):
    """Cross-entropy of logits shifted by class; classes that a client lacks are left out."""

    smooths = True
    stacked_options = OWN_STEPS

    def shift(self, counts: Tensor) -> Tensor:
        """Return what to add to the logits, `(K, C)`; `counts` `(K, C)` are examples per class."""
        raise NotImplementedError

    def begin(self, training: Training) -> None:
        """Count each client's labels."""
        data, rows = training.stack.data, training.stack.rows
        owners = np.repeat(np.arange(len(rows)), list(map(len, rows)))
        place = data.labels.device
        seen = data.labels[torch.from_numpy(np.concatenate(rows)).to(place)]
        counts = training.block.new_zeros(len(rows) * data.classes)
        index = torch.from_numpy(owners).to(place) * data.classes + seen
        counts.index_add_(0, index, torch.ones_like(index, dtype=counts.dtype))
        training.own["shift"] = self.shift(counts.view(len(rows), -1))

    def loss(self, training: Training) -> Loss:
        """Return cross-entropy of the shifted logits."""
        shift = training.own["shift"]

        def shifted(logits: Tensor, labels: Tensor, _: Tensor, clients: slice) -> Tensor:
            return losses_of(logits + shift[clients, None], labels, self.label_smoothing)

        return shifted


@dataclass(frozen=True)
class FedLC(Calibrated):
    """Logits calibrated by -tau n_c^(-1/4) (FedLC, Zhang et al. 2022, ICML, eq. 7)."""

    stacked_options = OWN_STEPS

    tau: Annotated[float, Field(ge=0, description="strength of the calibration; 0: none")] = 1.0

    def shift(self, counts: Tensor) -> Tensor:
        """Return -tau n_c^(-1/4)."""
        return torch.where(counts > 0, -self.tau * counts.clamp(min=1) ** -0.25, -torch.inf)


@dataclass(frozen=True)
class BalancedSoftmax(Calibrated):
    """Logits plus log n_c (balanced softmax, Ren et al. 2020, NeurIPS, eq. 4)."""

    stacked_options = OWN_STEPS

    def shift(self, counts: Tensor) -> Tensor:
        """Return log n_c."""
        return counts.log()
