"""Draws masks: gives every weight a random place between 0 and 1, and cuts there.

Each tensor, or layer, has a random stream of its own, named after it, and is drawn on the CPU. So
its mask is the same on any machine and device, whatever else the model holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from fedalign.masks.names import tensors_named
from fedalign.masks.plan import MaskPlan
from fedalign.network.layout import Entry, Layout
from fedalign.rng import rng

NEVER_FIXED = 2.0  # the place of a weight that is excluded, beyond any interval


class Draw:
    """Draws the masks of a schedule.

    Every weight has a random place in [0, 1), which all weights of a neuron or layer share if the
    plan's granularity says so. A mask trains the weights whose place is in an interval. Places stay
    the same as long as `plan.mask_index` does. So masks of disjoint intervals are disjoint, and a
    mask of a narrower interval lies within that of a wider one.

    >>> from fedalign.network.layout import Entry
    >>> layout = Layout((Entry("weight", (2, 5), 0),), (), ())
    >>> draw = Draw(MaskPlan(fixed_ratio=0.4, sampling="exact"), layout)
    >>> mask = draw.between(0.4, 1)  # fixes 40 %
    >>> int(mask.sum())
    6
    >>> torch.equal(draw.between(0, 0.4), ~mask)
    True

    Attributes:
        plan: the mask plan of the round: its number, the ratio, the index of the mask.
    """

    def __init__(self, plan: MaskPlan, layout: Layout):
        self.plan, self._layout = plan, layout

    def between(self, low: float, high: float, mask_index: int | None = None) -> Tensor:
        """Return the mask, True for weights with a place in [low, high) and excluded ones.

        It has one entry for each weight, as `Layout.compact` returns them, and none for padding.
        `between(fixed_ratio, 1)` fixes that share of the weights; `between(0, fixed_ratio)` is its
        complement. `mask_index` replaces the plan's.
        """
        plan = self.plan if mask_index is None else replace(self.plan, mask_index=mask_index)
        places, some_excluded = _places(_drawn_alike(plan), self._layout)
        above = places >= low
        if high >= 1:
            return above  # as are all that are excluded
        inside = above.logical_and_(places < high) if low > 0 else places < high
        return inside.logical_or_(places == NEVER_FIXED) if some_excluded else inside


def _drawn_alike(plan: MaskPlan) -> MaskPlan:
    """Return the plan without what the places do not depend on, so that they are drawn once."""
    return replace(
        plan,
        fixed_ratio=0.0,
        schedule="",
        server_round=0,
        freeze="exact",
        fixed_lr_scale=0.0,
        reset=True,
    )


@lru_cache(maxsize=8)
def _places(plan: MaskPlan, layout: Layout) -> tuple[Tensor, bool]:
    """Return each weight's place, float64 without padding, and whether any weight is excluded.

    The place of those is `NEVER_FIXED`.
    """
    layers = layout.layers
    included = tensors_named(plan.include, layers) - tensors_named(plan.exclude, layers)
    units = [[entry] for entry in layout.parameters] if plan.granularity == "weight" else layers
    units = [unit for unit in units if included & {entry.name for entry in unit}]
    owner = () if plan.client is None else ("client", plan.client)
    drawn = [
        rng(plan.seed, "mask", plan.mask_index, *owner, unit[0].name).random(_count(plan, unit))
        for unit in units
    ]
    if plan.sampling == "exact":
        drawn = _evenly(drawn, together=plan.granularity == "layer")
    found = {entry.name: np.full(_length(entry), NEVER_FIXED) for entry in layout.parameters}
    for unit, own in zip(units, drawn, strict=True):
        for entry in (entry for entry in unit if entry.name in included):
            of_each = _length(entry) // len(own)  # the first axis is the outermost
            found[entry.name] = own if of_each == 1 else own.repeat(of_each)
    return torch.from_numpy(np.concatenate(list(found.values()))), len(included) < len(found)


def _length(entry: Entry) -> int:
    return entry.stop - entry.start


def _count(plan: MaskPlan, unit: Sequence[Entry]) -> int:
    """Return how many places are drawn for a tensor, or for a layer."""
    if plan.granularity == "weight":
        return unit[0].stop - unit[0].start
    return (unit[0].shape or (1,))[0] if plan.granularity == "neuron" else 1


def _evenly(drawn: list[np.ndarray], together: bool) -> list[np.ndarray]:
    """Return places at even distances in the order of the drawn ones: shares are then exact.

    Separately for each array, or for all of them `together` if each has one place.
    """
    parts = [np.concatenate(drawn)] if together and drawn else drawn
    even = [(_ranks(part) + 0.5) / len(part) for part in parts]
    return list(even[0].reshape(-1, 1)) if together and drawn else even


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return each value's place in ascending order, from 0."""
    ranks = np.empty(len(values), np.int64)
    ranks[np.argsort(values)] = np.arange(len(values))
    return ranks
