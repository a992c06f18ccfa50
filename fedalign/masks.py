"""Which weights are fixed, and when.

A mask plan is a few scalars; server and clients draw the same mask from it, so no mask travels.
True trains, False is fixed (Li et al., arXiv 2402.01342).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fedalign.parameters import Layout
from fedalign.rng import rng

Schedule = Literal["hold", "complement_half"]


@dataclass(frozen=True)
class MaskPlan:
    """How one round's local training is masked.

    Attributes:
        seed: the run's seed.
        draw: number of the draw: plans with the same seed, draw and ratio have the same mask.
        fixed_ratio: probability that a weight is fixed; 0 fixes nothing.
        schedule: `hold`: the mask holds for all local steps (FedPFN). `complement_half`: for the
            first half of the steps, then its complement for the rest (FedPNU).
    """

    seed: int = 0
    draw: int = 0
    fixed_ratio: float = 0.0
    schedule: Schedule = "hold"


@dataclass(frozen=True)
class Phase:
    """A stretch of local training: `trains` `(P,)` holds for `steps` steps; None trains all."""

    trains: Tensor | None
    steps: int


class Freezer:
    """Holds fixed weights at their bits while K models train, each through phases of its own.

    Exact, whatever momentum or weight decay did: after a step, fixed weights are put back.

    Args:
        weights: `(K, P)`, as they are before the first step.
        planned: the phases of each model.
    """

    def __init__(self, weights: Tensor, planned: Sequence[Sequence[Phase]]):
        self._starts: dict[int, list[tuple[int, Tensor | None]]] = {}
        for row, stretch in enumerate(planned):
            step = 0
            for phase in stretch:
                self._starts.setdefault(step, []).append((row, phase.trains))
                step += phase.steps
        masked = any(phase.trains is not None for stretch in planned for phase in stretch)
        self._anchor = weights.clone() if masked else weights[:0]
        self._trains: list[Tensor | None] = [None] * len(planned)
        self._mask: Tensor | None = None

    def enter(self, step: int, weights: Tensor) -> list[int]:
        """Return which models go from one phase to the next at this step."""
        starting = self._starts.pop(step, [])
        for row, trains in starting:
            self._trains[row] = trains
            if step and len(self._anchor):
                self._anchor[row] = weights[row]
        if starting and len(self._anchor):
            self._mask = self._combined(weights)
        return [row for row, _ in starting if step]

    def put_back(self, weights: Tensor) -> None:
        """Undo, in the first k models `(k, P)`, what happened to fixed weights."""
        if self._mask is not None:
            mask, anchor = self._mask[: len(weights)], self._anchor[: len(weights)]
            torch.where(mask, weights, anchor, out=weights)

    def _combined(self, weights: Tensor) -> Tensor | None:
        """Return the masks of all models, `(K, P)`; None if everything trains."""
        first = self._trains[0]
        if all(trains is first for trains in self._trains):
            return None if first is None else first.to(weights.device).expand(len(weights), -1)
        whole = torch.ones(weights.shape[1], dtype=torch.bool)
        masks = [whole if trains is None else trains for trains in self._trains]
        return torch.stack(masks).to(weights.device)


@lru_cache(maxsize=4)
def mask(plan: MaskPlan, layout: Layout) -> Tensor:
    """Return the plan's mask `(P,)`, bool, True where a weight trains.

    Every entry of every parameter tensor is drawn on its own, from a stream named after the
    tensor, on the CPU: the mask is the same on any machine and device, whatever else the model
    holds.
    """
    draws = [
        rng(plan.seed, "mask", plan.draw, entry.name).random(entry.stop - entry.start)
        for entry in layout.parameters
    ]
    return torch.from_numpy(np.concatenate(draws) >= plan.fixed_ratio)


@lru_cache(maxsize=4)
def _complement(plan: MaskPlan, layout: Layout) -> Tensor:
    return ~mask(plan, layout)


def phases(plan: MaskPlan, layout: Layout, steps: int) -> list[Phase]:
    """Return the phases that `steps` local steps go through, disjoint under `complement_half`.

    A phase in which nothing would train is dropped and the other gets its steps, so that FedPNU
    with `fixed_ratio` 0 or 1 is FedAvg.
    """
    if plan.fixed_ratio == 0:
        return [Phase(None, steps)]
    first = mask(plan, layout)
    if plan.schedule == "hold":
        return [Phase(first, steps)]
    if first.all() or not first.any():
        return [Phase(None, steps)]
    half = (steps + 1) // 2
    return [Phase(first, half), Phase(_complement(plan, layout), steps - half)]


def trained(plan: MaskPlan, layout: Layout) -> Tensor | None:
    """Return which weights `(P,)` a round under this plan can move; None: all of them."""
    if plan.fixed_ratio == 0 or plan.schedule == "complement_half":
        return None
    return mask(plan, layout)
