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
    Recipe,
    alike,
    combined,
    worth,
)


@dataclass(frozen=True)
class Chooser(Recipe):
    """A fusion that chooses among the models by how good they are on held-out examples."""

    metric: Annotated[
        Literal["accuracy", "loss", "probe_accuracy", "probe_loss"],
        Field(
            description="what is compared on held-out examples; probe: of logistic regression on "
            "the features of a model's body, fitted to half of them, task by task, and tested on "
            "the others"
        ),
    ] = "accuracy"

    @property
    def needs(self) -> frozenset[str]:
        """Held-out examples, and so many that a probe can be fitted if one is wanted."""
        return super().needs | {"held_out"} | ({"probing"} if self.probes else set())

    @property
    def probes(self) -> bool:
        """Whether bodies are compared, and not what the models predict."""
        return self.metric.startswith("probe")

    def worth(self, of: Ingredients, model: Tensor) -> float:
        """Return a number that is larger for better models `(F,)`."""
        score = of.supplies.probe if self.probes else of.supplies.score
        return worth(score(model), self.metric.removeprefix("probe_"))

    def ranked(self, of: Ingredients) -> list[int]:
        """Return the numbers of the models from the best to the worst; equals in their order."""
        worths = [self.worth(of, model) for model in of.models]
        return sorted(range(len(worths)), key=worths.__getitem__, reverse=True)


@dataclass(frozen=True)
class Best(Chooser):
    """The one model that is best on held-out examples; of equals the first."""

    def combine(self, of: Ingredients) -> Fused:
        """Return the best model."""
        first, *_ = self.ranked(of)
        shares = [float(number == first) for number in range(len(of.models))]
        return Fused(of.models[first].clone(), of.models, shares, {"chosen": of.name(first)})


@dataclass(frozen=True)
class Greedy(Chooser):
    """Greedy soup (Wortsman et al. 2022, arXiv 2203.05482, recipe 1).

    Models are tried from the best to the worst on held-out examples, equals in the order in which
    they are given. A model joins the soup if the mean with it is no worse on those examples than
    the mean without it. All are tried, unless `stop` says otherwise. Each mean is repaired before
    it is judged.
    """

    stop: Annotated[
        Literal["end", "first"],
        Field(description="end: all are tried, as in the paper; first: up to one that is refused"),
    ] = "end"

    def combine(self, of: Ingredients) -> Fused:
        """Return the mean of the models that joined."""
        first, *others = self.ranked(of)
        soup, reached = [first], self.worth(of, of.models[first])
        tried = [{"model": of.name(first), self.metric: abs(reached), "joins": True}]
        for number in others:
            now = self.worth(of, self._mean(of, [*soup, number]))
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
