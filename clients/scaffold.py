"""SCAFFOLD's client: control variates against client drift (Karimireddy et al. 2020, ICML)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clients.local import Local, Training
from fedalign.algorithm import Trained


@dataclass(frozen=True)
class Scaffold(Local):
    """Gradients corrected by c - c_i (SCAFFOLD, Karimireddy et al. 2020, algorithm 1).

    A client's c_i becomes option II of the paper, `c_i - c + (w_t - w_i) / (lr a_i)`, where a_i is
    its `Training.normalized_steps`: without momentum, as in the paper, the number of its steps.
    Entries of c_i that belong to fixed weights do not change.
    """

    stacked_options = Local.stacked_options
    other_half = "scaffold"
    stateful = True

    def begin(self, training: Training) -> None:
        """Look up c and the c_i; they are 0 at first."""
        zeros = torch.zeros_like(training.weights[0])
        training.own["c"] = training.stack.received.get("control", zeros)
        training.own["c_i"] = training.client_state("control", zeros)

    def correct(self, training: Training, gradient: Tensor) -> None:
        """Add c - c_i."""
        gradient.add_(training.own["c"]).sub_(training.own["c_i"][: len(gradient)])

    def finish(self, training: Training, result: Trained) -> None:
        """Store the new c_i and send their changes."""
        c, normalized_steps = training.own["c"], training.normalized_steps_of_weights()
        gone = training.public(training.start[: len(c)] - training.weights)
        change = torch.where(normalized_steps > 0, gone / (training.lr * normalized_steps) - c, 0)
        result.sends["control"] = change
        result.client_state["control"] = training.own["c_i"] + change
