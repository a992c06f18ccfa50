"""FedPNU: federated learning with progressive neuron updating (Li et al., arXiv 2402.01342)."""

from __future__ import annotations

from dataclasses import dataclass

from strategies.masked import Masked, SchedulePart


@dataclass
class FedPNU(Masked):
    """Clients train one random part of the weights, then the rest (Li et al., arXiv 2402.01342).

    Round t: the server draws a mask; for the first half of its steps every client trains the
    weights with mask 1, for the second half those with mask 0; the server aggregates all.
    The paper's public text names the method only; the two halves by steps are our reading, and
    `schedule` has others.
    """

    schedule: SchedulePart = "complement_half"
