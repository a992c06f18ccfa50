"""Fusions that choose among the models by held-out examples (Wortsman et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from fedalign.fusions.recipe import (
    Fused,
    Ingredients,
    Metric,
    Recipe,
    alike,
    combined,
    worth,
)


@dataclass(frozen=True)
class Best(Recipe):
    """The one model that is best on held-out examples; of equals the first."""

    metric: Metric = "accuracy"

    @property
    def needs(self) -> frozenset[str]:
        """Held-out examples."""
        return super().needs | {"held_out"}

    def combine(self, of: Ingredients) -> Fused:
        """Return the best model."""
        first, *_ = ranked(of, self.metric)
        shares = [float(number == first) for number in range(len(of.models))]
        return Fused(of.models[first].clone(), of.models, shares, {"chosen": of.name(first)})


@dataclass(frozen=True)
class Greedy(Recipe):
    """Greedy soup (Wortsman et al. 2022, arXiv 2203.05482, recipe 1).

    Models are tried from the best to the worst on held-out examples, equals in the order in which
    they are given. A model joins the soup if the mean with it is no worse on those examples than
    the mean without it. All are tried, unless `stop` says otherwise. Each mean is repaired before
    it is judged.
    """

    metric: Metric = "accuracy"
    stop: Annotated[
        Literal["end", "first"],
        Field(description="end: all are tried, as in the paper; first: up to one that is refused"),
    ] = "end"

    @property
    def needs(self) -> frozenset[str]:
        """Held-out examples."""
        return super().needs | {"held_out"}

    def combine(self, of: Ingredients) -> Fused:
        """Return the mean of the models that joined."""
        first, *others = ranked(of, self.metric)
        soup, reached = [first], worth(of.supplies.score(of.models[first]), self.metric)
        tried = [{"model": of.name(first), self.metric: abs(reached), "joins": True}]
        for number in others:
            now = worth(of.supplies.score(self._mean(of, [*soup, number])), self.metric)
            joins = now >= reached
            tried.append({"model": of.name(number), self.metric: abs(now), "joins": joins})
            if joins:
                soup, reached = [*soup, number], now
            elif self.stop == "first":
                break
        shares = [(number in soup) / len(soup) for number in range(len(of.models))]
        return Fused(combined(of.models, shares), of.models, shares, {"tried": tried})

    def _mean(self, of: Ingredients, soup: Sequence[int]) -> Tensor:
        """Return the repaired mean of these models."""
        part = of.models[list(soup)]
        shares = alike(len(soup))
        fused = self.repaired(Fused(combined(part, shares), part, shares), of.supplies)
        assert fused.model is not None
        return fused.model


def ranked(of: Ingredients, metric: str) -> list[int]:
    """Return the numbers of the models from the best to the worst; equals in their order."""
    worths = [worth(of.supplies.score(model), metric) for model in of.models]
    return sorted(range(len(worths)), key=worths.__getitem__, reverse=True)
