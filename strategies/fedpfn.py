"""FedPFN: federated learning with partially fixed neurons (Li et al., arXiv 2402.01342)."""

from __future__ import annotations

from typing import Annotated

from flwr.serverapp.strategy import Strategy
from pydantic import Field

from fedalign.masks import MaskPlan
from fedalign.parameters import Layout
from strategies.masked import FixedRatio, Masked


class FedPFN(Masked):
    """All clients keep the same random weights fixed for the round (Li et al., arXiv 2402.01342).

    Round t: the server draws a mask; every client trains the weights with mask 1 and holds the
    others at the global values; the server aggregates the trained ones and copies the fixed.
    """

    def __init__(
        self,
        base: Strategy,
        layout: Layout,
        seed: int,
        fixed_ratio: FixedRatio = 0.4,
        refresh: Annotated[
            int, Field(ge=0, description="rounds a mask is kept; 0: one mask for the run (TNA-PFN)")
        ] = 1,
    ):
        super().__init__(base, layout, seed, fixed_ratio)
        self.refresh = refresh

    def plan(self, server_round: int) -> MaskPlan:
        """Return the round's plan: one mask, held for all local steps."""
        draw = (server_round - 1) // self.refresh if self.refresh else 0
        return MaskPlan(self.seed, draw, self.fixed_ratio, "hold")
