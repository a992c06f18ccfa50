"""What trains when in a client's round, and what its update can change.

Ask `phases` for the masks of local training, `trainable_mask` for all that they train, and
`update_mask` for what travels back. Masks are cached: ask for one wherever it is needed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, groupby, pairwise
from math import ceil

import torch
from torch import Tensor

from fedalign.masks.drawing import Draw
from fedalign.masks.plan import MaskPlan
from fedalign.network.layout import Layout
from fedalign.settings.contracts import Schedule
from fedalign.settings.registry import parse


@dataclass(frozen=True)
class Phase:
    """A part of local training.

    Attributes:
        trains: `(P,)` bool, the weights that train, False for padding; None: all of them.
        steps: how many local steps the phase lasts.
    """

    trains: Tensor | None
    steps: int


def phases(plan: MaskPlan, layout: Layout, steps: int, epochs: int = 1) -> list[Phase]:
    """Return the phases of a client's `steps` local steps.

    A stretch in which nothing would train is dropped and the others get its steps. So FedPNU with
    `fixed_ratio` 0 or 1 is FedAvg. `ValueError` if a schedule by epochs has too few of them.

    >>> from fedalign.network.layout import Entry
    >>> layout = Layout((Entry("weight", (2, 5), 0),), (), ())
    >>> plan = MaskPlan(fixed_ratio=0.4, schedule="complement_half")
    >>> first, second = phases(plan, layout, steps=5)
    >>> first.steps, second.steps
    (3, 2)
    >>> int(first.trains.sum() + second.trains.sum()), bool((first.trains & second.trains).any())
    (10, False)
    """
    stretches, by_epochs = _stretches(plan, layout)
    if by_epochs and epochs < len(stretches):
        raise ValueError(
            f"the schedule changes the mask between epochs: {len(stretches)} epochs or more are "
            f"needed, not {epochs}"
        )
    units, unit = (epochs, steps // epochs) if by_epochs else (steps, 1)
    ends = [ceil(units * share - 1e-9) * unit for share in accumulate(s for _, s in stretches)]
    cuts = pairwise([0, *ends[:-1], steps])
    pairs = zip(stretches, cuts, strict=True)
    return [Phase(mask, stop - start) for (mask, _), (start, stop) in pairs]


@lru_cache(maxsize=8)
def trainable_mask(plan: MaskPlan, layout: Layout) -> Tensor | None:
    """Return the weights `(P,)` that train in any phase of a client's round; None: all of them.

    Padding never does. The plan is the client's own: `plan.of(client)`.
    """
    masks = [mask for mask, _ in _stretches(plan, layout)[0]]
    if any(mask is None for mask in masks):
        return None
    union = torch.stack([mask for mask in masks if mask is not None]).any(0)
    return None if layout.compact(union).all() else union


def update_mask(plan: MaskPlan, layout: Layout) -> Tensor | None:
    """Return the weights `(P,)` that a client's update can change; None: all of them.

    Those travel back. They are the trainable ones, or all where the plan lets fixed weights move.
    For a plan `per_client` without a client it is None too, as clients change different weights.
    """
    moves_fixed = plan.freeze == "grad_only" or plan.fixed_lr_scale > 0
    if moves_fixed or (plan.per_client and plan.client is None):
        return None
    return trainable_mask(plan, layout)


@lru_cache(maxsize=8)
def _stretches(plan: MaskPlan, layout: Layout) -> tuple[list[tuple[Tensor | None, float]], bool]:
    """Return a round's masks with their shares of the steps, and whether they are by epochs.

    None instead of a mask trains all. Shares add up to 1.
    """
    schedule = _schedule(plan.schedule)
    planned = list(schedule.stretches(Draw(plan, layout)))
    used = [(mask, share) for mask, share in planned if mask.any()] or planned[:1]
    total, merged = sum(share for _, share in used), list[tuple[Tensor | None, float]]()
    for _, alike in groupby(used, key=lambda stretch: stretch[0].numpy().tobytes()):
        masks, shares = zip(*alike, strict=True)  # one mask goes on, and so does the optimiser
        mask = None if masks[0].all() else layout.spread(masks[0])
        merged.append((mask, sum(shares) / total))
    return merged, schedule.by_epochs


@lru_cache(maxsize=8)
def _schedule(text: str) -> Schedule:
    """Return the schedule that a plan names; `InputError` if there is none of that name."""
    section = json.loads(text) if text.startswith("{") else {"name": text}
    built: Schedule = parse("schedules", section, "schedule").build()
    return built
