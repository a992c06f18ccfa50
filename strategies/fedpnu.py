"""FedPNU: federated learning with progressive neuron updating (Li et al., arXiv 2402.01342)."""

from __future__ import annotations

from dataclasses import dataclass

from strategies.masked import Masked, SchedulePart


@dataclass
class FedPNU(Masked):
    """Clients train one random part of the weights, then the rest (Li et al., arXiv 2402.01342).

    In round t the server draws a mask; every client trains the weights with mask 1 in the first
    half of its steps and those with mask 0 in the second half; the server aggregates all weights.
    The paper's public text only names the method: halves by steps are our reading, and `schedule`
    offers others.
    """

    schedule: SchedulePart = "complement_half"
