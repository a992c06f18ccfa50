"""Which weights are fixed, and when.

A mask plan is a few scalars; server and clients draw the same mask from it, so no mask travels.
True trains, False is fixed (Li et al., arXiv 2402.01342).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import lru_cache
from itertools import accumulate, groupby, pairwise
from math import ceil
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedalign.network.layout import Entry, Layout
from fedalign.rng import rng
from fedalign.settings.contracts import Schedule
from fedalign.settings.registry import parse

Granularity = Literal["weight", "neuron", "layer"]
Sampling = Literal["bernoulli", "exact"]
Freeze = Literal["exact", "grad_only"]


@dataclass(frozen=True)
class MaskPlan:
    """How one round's local training is masked.

    Attributes:
        seed: the run's seed.
        mask_index: which mask of the run this is, from 0; it grows when a fresh mask is drawn.
        fixed_ratio: share of the weights that is fixed; 0 fixes nothing.
        schedule: name of a schedule, or JSON of its name and options, see `schedules.py`.
        server_round: from 1.
        granularity: what is fixed as one: a weight, an output unit with its bias and norm terms, or
            a whole layer.
        sampling: `bernoulli` draws each unit on its own; `exact` fixes the stated share of each
            tensor's weights, of each layer's neurons, or of the layers.
        include: patterns of tensor names, separated by spaces; only these are ever fixed.
        exclude: patterns of those that are not. `head` in either is the last layer.
        freeze: `exact` puts fixed weights back after each step; `grad_only` zeroes their gradient
            and no more, so that momentum and weight decay move them.
        fixed_lr_scale: fixed weights make this share of each step; 0 holds them.
        reset: the optimiser starts fresh where the mask changes within a round.
        per_client: each client has a mask of its own (federated dropout).
        client: whose mask this is, if they have their own.
    """

    seed: int = 0
    mask_index: int = 0
    fixed_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    schedule: str = "hold"
    server_round: int = 1
    granularity: Granularity = "weight"
    sampling: Sampling = "bernoulli"
    include: str = "*"
    exclude: str = ""
    freeze: Freeze = "exact"
    fixed_lr_scale: Annotated[float, Field(ge=0, le=1)] = 0.0
    reset: bool = True
    per_client: bool = False
    client: int | None = None

    def of(self, client: int) -> MaskPlan:
        """Return the plan as one client has it."""
        return replace(self, client=client) if self.per_client else self


class Draw:
    """What a schedule makes masks of: every unit lies somewhere between 0 and 1, at random.

    Attributes:
        plan: the mask plan.
    """

    def __init__(self, plan: MaskPlan, layout: Layout):
        self.plan, self._layout = plan, layout

    def between(self, low: float, high: float, mask_index: int | None = None) -> Tensor:
        """Return the mask `(P,)` that trains what lies in [low, high), and all that is excluded.

        So `between(fixed_ratio, 1)` fixes the stated share, and `between(0, fixed_ratio)` is its
        complement; narrower stretches lie within wider ones. `mask_index` replaces the
        plan's.
        """
        plan = self.plan if mask_index is None else replace(self.plan, mask_index=mask_index)
        places = _places(_drawn_alike(plan), self._layout)
        return ((places >= low) & (places < high)) | (places == ALWAYS)


@dataclass(frozen=True)
class Phase:
    """A stretch of local training: `trains` `(P,)` holds for `steps` steps; None trains all."""

    trains: Tensor | None
    steps: int


def phases(plan: MaskPlan, layout: Layout, steps: int, epochs: int = 1) -> list[Phase]:
    """Return the phases that `steps` local steps go through.

    A stretch in which nothing would train is dropped and the others get its steps, so that FedPNU
    with `fixed_ratio` 0 or 1 is FedAvg. `ValueError` if a schedule by epochs has too few of them.
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


def update_mask(plan: MaskPlan, layout: Layout) -> Tensor | None:
    """Return which weights `(P,)` a client of this plan can move; None: all of them.

    Where every client has a mask of its own, the plan says so only once it says whose it is.
    """
    if (
        plan.freeze == "grad_only"
        or plan.fixed_lr_scale
        or (plan.per_client and plan.client is None)
    ):
        return None
    return trainable_mask(plan, layout)


def groups(layout: Layout) -> list[list[Entry]]:
    """Return a model's layers: each a weight matrix or kernel, with its bias and norm terms.

    Those are the vectors behind it, in the order of the module, with as many entries as it has
    output units.
    """
    found: list[list[Entry]] = []
    for entry in layout.parameters:
        terms = found and len(entry.shape) == 1 and entry.shape[0] == found[-1][0].shape[0]
        if terms:
            found[-1].append(entry)
        else:
            found.append([entry])
    return found


ALWAYS = 2.0  # the place of a weight that trains whatever is drawn


def _drawn_alike(plan: MaskPlan) -> MaskPlan:
    """Return the plan without what does not matter to what is drawn."""
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
def _places(plan: MaskPlan, layout: Layout) -> Tensor:
    """Return where each weight lies between 0 and 1, `(P,)` float64; `ALWAYS` if excluded.

    Each tensor, or layer, has a stream of its own, named after it, and is drawn on the CPU: the
    same on any machine and device, whatever else the model holds.
    """
    layers = groups(layout)
    included = _named(plan.include, layers) - _named(plan.exclude, layers)
    units = [[entry] for entry in layout.parameters] if plan.granularity == "weight" else layers
    units = [unit for unit in units if included & {entry.name for entry in unit}]
    whose = () if plan.client is None else ("client", plan.client)
    drawn = [
        rng(plan.seed, "mask", plan.mask_index, *whose, unit[0].name).random(_count(plan, unit))
        for unit in units
    ]
    if plan.sampling == "exact":
        drawn = _evenly(drawn, together=plan.granularity == "layer")
    places = torch.full((layout.num_parameters,), ALWAYS, dtype=torch.float64)
    for unit, own in zip(units, drawn, strict=True):
        for entry in (entry for entry in unit if entry.name in included):
            of_each = (entry.stop - entry.start) // len(own)  # the first axis is the outermost
            places[entry.start : entry.stop] = torch.from_numpy(own).repeat_interleave(of_each)
    return places


def _count(plan: MaskPlan, unit: list[Entry]) -> int:
    """Return how many things of a tensor, or of a layer, are drawn."""
    if plan.granularity == "weight":
        return unit[0].stop - unit[0].start
    return (unit[0].shape or (1,))[0] if plan.granularity == "neuron" else 1


def _evenly(drawn: list[np.ndarray], together: bool) -> list[np.ndarray]:
    """Return places at even distances in the order of the draws: shares become exact counts."""
    parts = [np.concatenate(drawn)] if together and drawn else drawn
    even = [(np.argsort(np.argsort(part)) + 0.5) / len(part) for part in parts]
    return list(even[0].reshape(-1, 1)) if together and drawn else even


def _named(patterns: str, layers: Sequence[Sequence[Entry]]) -> set[str]:
    """Return the tensors that patterns mean; `ValueError` for one that means none."""
    names = [entry.name for layer in layers for entry in layer]
    found: set[str] = set()
    for pattern in patterns.split():
        own = {name for name in names if fnmatchcase(name, pattern)}
        own |= {entry.name for entry in layers[-1]} if pattern == "head" else set()
        if not own:
            raise ValueError(f"{pattern!r} is no tensor of the model (head, {', '.join(names)})")
        found |= own
    return found


@lru_cache(maxsize=8)
def _stretches(plan: MaskPlan, layout: Layout) -> tuple[list[tuple[Tensor | None, float]], bool]:
    """Return the masks of a client's round with their shares of the steps; None trains all."""
    built = schedule_of(plan.schedule)
    planned = list(built.stretches(Draw(plan, layout)))
    kept = [(mask, share) for mask, share in planned if mask.any()] or planned[:1]
    total, merged = sum(share for _, share in kept), list[tuple[Tensor | None, float]]()
    for _, alike in groupby(kept, key=lambda stretch: stretch[0].numpy().tobytes()):
        masks, shares = zip(*alike, strict=True)  # one mask goes on, and so does the optimiser
        merged.append((None if masks[0].all() else masks[0], sum(shares) / total))
    return merged, built.by_epochs


@lru_cache(maxsize=8)
def trainable_mask(plan: MaskPlan, layout: Layout) -> Tensor | None:
    """Return which weights `(P,)` the masks of a client's round leave free; None: all of them."""
    masks = [mask for mask, _ in _stretches(plan, layout)[0]]
    if any(mask is None for mask in masks):
        return None
    union = torch.stack([mask for mask in masks if mask is not None]).any(0)
    return None if union.all() else union


@lru_cache(maxsize=8)
def schedule_of(told: str) -> Schedule:
    """Return the schedule of a mask plan; `InputError` for one that nobody has."""
    section = json.loads(told) if told.startswith("{") else {"name": told}
    built: Schedule = parse("schedules", section, "schedule").build()
    return built
