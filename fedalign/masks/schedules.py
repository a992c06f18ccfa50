"""Schedules: which part of the weights trains when.

arXiv 2402.01342 names FedPNU, "progressive neuron updating", and its public text says no more; the
mask generator in the authors' public code also stores each mask's complement. So the schedule is an
option.

A schedule of your own is a class like those below, found by an entry point `fedalign.schedules` or
as `package.module:Name`. Its annotated fields are its options. Its `stretches` returns masks in the
order in which they hold, each with its share of a client's steps. Draw masks by
`draw.between(low, high)`; `draw.plan` has the round, the ratio, and the index of the mask:

    @dataclass(frozen=True)
    class WarmUp:
        share: Annotated[float, Field(ge=0, le=1, description="of the steps without a mask")] = 0.2
        by_epochs = False

        def stretches(self, draw: Draw) -> Stretches:
            masked = draw.between(draw.plan.fixed_ratio, 1)
            return [(draw.between(0, 1), self.share), (masked, 1 - self.share)]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field
from torch import Tensor

from fedalign.masks.drawing import Draw

Stretches = list[tuple[Tensor, float]]
First = Annotated[
    Literal["mask", "complement"],
    Field(description="whether the mask or its complement comes first"),
]


@dataclass(frozen=True)
class Hold:
    """One mask for all local steps (FedPFN)."""

    by_epochs = False

    def stretches(self, draw: Draw) -> Stretches:
        """Return the one mask."""
        return [(draw.between(draw.plan.fixed_ratio, 1), 1)]


@dataclass(frozen=True)
class ComplementHalf:
    """The mask for the first half of a client's steps, then its complement (FedPNU)."""

    first: First = "mask"
    by_epochs = False

    def stretches(self, draw: Draw) -> Stretches:
        """Return the two halves."""
        ratio = draw.plan.fixed_ratio
        halves = [(draw.between(ratio, 1), 0.5), (draw.between(0, ratio), 0.5)]
        return halves if self.first == "mask" else halves[::-1]


@dataclass(frozen=True)
class ComplementEpochs(ComplementHalf):
    """The mask for the first half of the local epochs, rounded up, then its complement."""

    by_epochs = True


@dataclass(frozen=True)
class AlternateRounds:
    """The mask in one round, its complement in the next, then a fresh mask."""

    first: First = "mask"
    by_epochs = False

    def stretches(self, draw: Draw) -> Stretches:
        """Return the mask of the round; all train where one of the two is empty."""
        plan = draw.plan
        if plan.fixed_ratio in (0, 1):
            return [(draw.between(0, 1), 1)]
        odd, ratio = (plan.server_round - 1) % 2, plan.fixed_ratio
        low, high = (ratio, 1.0) if odd == (self.first == "complement") else (0.0, ratio)
        return [(draw.between(low, high, plan.mask_index // 2), 1)]


@dataclass(frozen=True)
class KWay:
    """Disjoint parts of equal size, one after the other within a round; ignores `fixed_ratio`."""

    parts: Annotated[
        int, Field(gt=0, description="number of parts that the weights are divided into")
    ] = 4
    by_epochs = False

    def stretches(self, draw: Draw) -> Stretches:
        """Return the parts."""
        count = self.parts
        return [(draw.between(k / count, (k + 1) / count), 1 / count) for k in range(count)]


@dataclass(frozen=True)
class Growing:
    """The trained share grows until all weights train, over rounds or within each round."""

    over: Annotated[
        Literal["rounds", "steps"],
        Field(
            description="whether the trained share grows from round to round, or within each round"
        ),
    ] = "steps"
    length: Annotated[
        int,
        Field(gt=0, description="number of steps of growth: rounds, or equal stretches of a round"),
    ] = 4
    by_epochs = False

    def stretches(self, draw: Draw) -> Stretches:
        """Return the masks of the round, each of which contains the one before."""
        start, length = draw.plan.fixed_ratio, self.length
        if self.over == "rounds":
            done = min((draw.plan.server_round - 1) / length, 1)
            return [(draw.between(start * (1 - done), 1), 1)]
        ratios = [start * (1 - k / max(length - 1, 1)) for k in range(length)]
        return [(draw.between(ratio, 1), 1 / length) for ratio in ratios]


@dataclass(frozen=True)
class FrozenThenFull:
    """FedPFN for the first rounds, then FedAvg."""

    rounds: Annotated[
        int, Field(ge=0, description="number of rounds at the start that are trained under a mask")
    ] = 10
    by_epochs = False

    def stretches(self, draw: Draw) -> Stretches:
        """Return the mask of the round."""
        masked = draw.plan.server_round <= self.rounds
        return [(draw.between(draw.plan.fixed_ratio if masked else 0, 1), 1)]
