"""Means of models: plain, weighted, and on the sphere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedalign.errors import InputError
from fedalign.fusions.recipe import Fused, Ingredients, Recipe, Weights, alike, combined
from fedalign.network.layout import Layout

PARALLEL = 1e-6  # sine of the angle below which two models are mixed along a straight line


@dataclass(frozen=True)
class Mean(Recipe):
    """The mean of all models: the uniform soup (Wortsman et al. 2022, section 2)."""

    def combine(self, of: Ingredients) -> Fused:
        """Return the mean."""
        shares = alike(len(of.models))
        return Fused(combined(of.models, shares), of.models, shares)


@dataclass(frozen=True)
class Weighted(Recipe):
    """The weighted mean, by number of training examples as in FedAvg (McMahan et al. 2017)."""

    weights: Weights = "examples"

    def combine(self, of: Ingredients) -> Fused:
        """Return the weighted mean."""
        shares = of.shares(self.weights)
        return Fused(combined(of.models, shares), of.models, shares, {"shares": shares})


@dataclass(frozen=True)
class Slerp(Recipe):
    """Spherical interpolation (Shoemake 1985); of more than two models iterated, in their order.

    Of models a and b with angle w between them: `(sin((1-t) w) a + sin(t w) b) / sin w`. A third
    model is mixed into the result with t = 1/3, a fourth with 1/4, and so on, so that parallel
    models would have equal shares; the result depends on the order. Where the angle is 0, or a
    tensor is, the mix is linear. BatchNorm's statistics are averaged.
    """

    t: Annotated[
        float, Field(ge=0, le=1, description="where between two models; more models: only 0.5")
    ] = 0.5
    across: Annotated[
        Literal["model", "tensor"],
        Field(description="one angle for the whole model, or one for each tensor"),
    ] = "model"

    def combine(self, of: Ingredients) -> Fused:
        """Return the model on the arc."""
        layout, first = of.supplies.network.layout, of.models[0].double()
        if len(of.models) > 2 and self.t != 0.5:
            count = f"{len(of.models)} models"
            raise InputError(f"fusion.t: {self.t} is a place between two models, not {count}")
        shares = [1 - self.t, self.t] if len(of.models) == 2 else alike(len(of.models))
        vector, angles = first, list[float]()
        for number, model in enumerate(of.models[1:], 2):
            t = self.t if number == 2 else 1 / number
            vector, angle = self._between(layout, vector, model.double(), t)
            angles.append(angle)
        return Fused(vector.float(), of.models, shares, {"angles": angles})

    def _between(self, layout: Layout, a: Tensor, b: Tensor, t: float) -> tuple[Tensor, float]:
        """Return the mix of two models, float64, and the largest angle in it, in radians."""
        mixed = (1 - t) * a + t * b
        parts = [slice(0, layout.parameter_size)]
        if self.across == "tensor":
            parts = [slice(entry.start, entry.stop) for entry in layout.parameters]
        angles = [arc(mixed[part], a[part], b[part], t) for part in parts]
        return mixed, max(angles)


def arc(out: Tensor, a: Tensor, b: Tensor, t: float) -> float:
    """Write the model at `t` on the arc from a to b into `out`; return the angle, in radians.

    What is in `out` stays where the angle is 0.
    """
    size = a.norm() * b.norm()
    cosine = float((a @ b / size).clamp(-1, 1)) if size > 0 else 1.0
    angle = torch.tensor(cosine, dtype=torch.float64).acos()
    if angle.sin() > PARALLEL:
        out.copy_((((1 - t) * angle).sin() * a + (t * angle).sin() * b) / angle.sin())
    return float(angle)
