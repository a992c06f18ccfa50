"""Fisher-weighted averaging."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field

from fedalign.fusions.recipe import Fused, Ingredients, Recipe, Weights, combined
from fedalign.network.fisher import Kind, diagonal_fisher


@dataclass(frozen=True)
class FisherWeighted(Recipe):
    """Each weight counts by its Fisher information (Matena and Raffel 2022, arXiv 2111.09832).

    With the diagonals F_i of the models' Fisher information and weights l_i, the fused model is
    `sum_i l_i F_i w_i / sum_i l_i F_i` (eq. 3). The diagonals are computed on held-out examples; in
    the paper on the models' own training examples. BatchNorm's statistics are averaged.
    """

    fisher: Annotated[
        Kind,
        Field(
            description="gradients of; exact: all classes as predicted (the paper's); sampled: one "
            "class drawn from the prediction; empirical: the label"
        ),
    ] = "exact"
    examples: Annotated[int, Field(ge=1, description="held-out examples used, at most")] = 256
    floor: Annotated[
        float, Field(gt=0, description="least information of a weight; 1e-6 in the authors' code")
    ] = 1e-6
    normalise: Annotated[
        bool, Field(description="divide each model's by its L2 norm, as the authors' code does")
    ] = True
    weights: Weights = "equal"

    @property
    def needs(self) -> frozenset[str]:
        """Held-out examples."""
        return super().needs | {"held_out"}

    def combine(self, of: Ingredients) -> Fused:
        """Return the weighted mean, weight by weight."""
        supplies, shares = of.supplies, of.shares(self.weights)
        assert supplies.held_out is not None
        network, data = supplies.network, supplies.held_out.subset(self.examples)
        size, model = network.layout.parameter_size, combined(of.models, shares)
        above = torch.zeros(size, dtype=torch.float64)
        below = torch.zeros_like(above)
        for own, share in zip(of.models, shares, strict=True):
            found = diagonal_fisher(network, own, data, self.fisher, supplies.seed).cpu().double()
            norm = found.norm() if self.normalise and found.any() else 1.0
            weight = share * found.clamp(min=self.floor) / norm
            above += weight * own[:size].double()
            below += weight
        model[:size] = (above / below).float()
        return Fused(model, of.models, shares, {"examples": len(data)})
