"""FedPNU: federated learning with progressive neuron updating (Li et al., arXiv 2402.01342)."""

from __future__ import annotations

from typing import Annotated

from flwr.serverapp.strategy import Strategy
from pydantic import Field

from fedalign.masks import MaskPlan
from fedalign.parameters import Layout
from strategies.masked import Masked


class FedPNU(Masked):
    """Clients train one random part of the weights, then the rest (Li et al., arXiv 2402.01342).

    Round t: the server draws a mask; for the first half of its steps every client trains the
    weights with mask 1, for the second half those with mask 0; the server aggregates all.
    The paper's public text names the method only; the two halves by steps are our reading.
    """

    def __init__(
        self,
        base: Strategy,
        layout: Layout,
        seed: int,
        fixed_ratio: Annotated[
            float, Field(ge=0, le=1, description="share of the weights that waits for phase two")
        ] = 0.4,
    ):
        super().__init__(base, layout)
        self.seed, self.fixed_ratio = seed, fixed_ratio

    def plan(self, server_round: int) -> MaskPlan:
        """Return the round's plan: a fresh mask, then its complement."""
        return MaskPlan(self.seed, server_round - 1, self.fixed_ratio, "complement_half")
