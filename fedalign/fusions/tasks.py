"""Fusions of what models have learnt since a common start: task arithmetic and TIES."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedalign.fusions.recipe import Fused, Ingredients, Recipe, alike, combined

GRID = [number / 20 for number in range(1, 21)]  # 0.05, 0.10, … 1


@dataclass(frozen=True)
class TaskArithmetic(Recipe):
    """Start plus scaled sum of task vectors (Ilharco et al. 2023, arXiv 2212.04089, section 4).

    A task vector is what a model differs by from the common start; the sum of all is scaled by one
    factor. The paper chooses that on held-out examples, from 0.05 to 1 in steps of 0.05.
    BatchNorm's statistics are averaged.
    """

    scale: Annotated[
        Literal["held_out", "mean"] | Annotated[float, Field(ge=0)],
        Field(
            description="of the sum of task vectors; held_out: the best on held-out examples; "
            "mean: 1 / number of models, which is the plain mean"
        ),
    ] = "held_out"

    @property
    def needs(self) -> frozenset[str]:
        """The start, and held-out examples if the scale is chosen."""
        return super().needs | {"start"} | ({"held_out"} if self.scale == "held_out" else set())

    def combine(self, of: Ingredients) -> Fused:
        """Return the start with the scaled task vectors."""
        if self.scale != "held_out":
            return self._scaled(of, 1 / len(of.models) if self.scale == "mean" else self.scale)
        scores = {scale: self._score(of, scale) for scale in GRID}
        best = max(GRID, key=lambda scale: scores[scale])  # the smallest of equals
        tried = [{"scale": s, "accuracy": accuracy} for s, (accuracy, _) in scores.items()]
        fused = self._scaled(of, best)
        return Fused(fused.model, fused.parts, fused.shares, {"scale": best, "tried": tried})

    def _score(self, of: Ingredients, scale: float) -> tuple[float, float]:
        model = self.repaired(self._scaled(of, scale), of.supplies).model
        assert model is not None
        loss, accuracy = of.supplies.score(model)
        return accuracy, -loss

    def _scaled(self, of: Ingredients, scale: float) -> Fused:
        shares = alike(len(of.models))
        model = _from_start(of, combined(of.models, shares), scale * len(of.models))
        return Fused(model, of.models, shares, {"scale": scale})


@dataclass(frozen=True)
class TIES(Recipe):
    """Trim, elect sign and merge (Yadav et al. 2023, arXiv 2306.01708, algorithm 1).

    Of each task vector the entries of largest magnitude are kept and the rest is set to 0; each
    weight gets the sign of the sum over models; the entries with that sign are averaged. The result
    is scaled and added to the start. Where the sum is 0 the weight stays at the start, as the
    algorithm says (the authors' code takes the sign of all sums there). BatchNorm's statistics are
    averaged.
    """

    density: Annotated[
        float, Field(gt=0, le=1, description="share of each task vector that is kept")
    ] = 0.2
    scale: Annotated[float, Field(ge=0, description="of the merged task vector")] = 1.0

    @property
    def needs(self) -> frozenset[str]:
        """The start."""
        return super().needs | {"start"}

    def combine(self, of: Ingredients) -> Fused:
        """Return the start with the scaled merged task vector."""
        assert of.start is not None
        layout, shares = of.supplies.network.layout, alike(len(of.models))
        size, merged = layout.parameter_size, combined(of.models, shares)
        start, kept = of.start[:size].double(), max(1, round(self.density * layout.num_parameters))
        tasks = torch.stack([trimmed(own[:size] - start, kept).float() for own in of.models])
        sign = tasks.sum(0, dtype=torch.float64).sign()
        total, count = torch.zeros_like(start), torch.zeros_like(start)
        for model, task in zip(of.models, tasks, strict=True):
            chosen = (task.sign() == sign) & (sign != 0)
            total += torch.where(chosen, model[:size].double(), 0.0)
            count += chosen
        merged[:size] = torch.where(count > 0, total / count.clamp(min=1), start).float()
        model = _from_start(of, merged, self.scale)
        facts = {"moved": int((count > 0).sum()), "of": layout.num_parameters}
        return Fused(model, of.models, shares, facts)


def trimmed(task: Tensor, kept: int) -> Tensor:
    """Return a task vector `(P,)` with 0 for all but its `kept` entries of largest magnitude.

    >>> trimmed(torch.tensor([3.0, -1.0, -4.0, 2.0]), 2)
    tensor([ 3.,  0., -4.,  0.])
    """
    least = task.abs().topk(kept).values[-1]
    return torch.where(task.abs() >= least, task, 0.0)


def _from_start(of: Ingredients, model: Tensor, scale: float) -> Tensor:
    """Return `start + scale * (model - start)` for the parameters; for 1 exactly the model."""
    assert of.start is not None
    size, moved = of.supplies.network.layout.parameter_size, model.clone()
    moved[:size] = ((1 - scale) * of.start[:size].double() + scale * model[:size].double()).float()
    return moved
