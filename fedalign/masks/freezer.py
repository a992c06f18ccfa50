"""Holds fixed weights where they are, whatever an optimiser does."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fedalign.masks.phases import Phase
from fedalign.masks.plan import MaskPlan
from fedalign.network.device import send


class Entering(NamedTuple):
    """Which models enter a phase at a step, and which of the masks hold then.

    Attributes:
        rows: of the models, `(n,)`; None: all of them, which take the mask of number `masks`.
        masks: the number of each one's mask, `(n,)`.
    """

    rows: Tensor | None
    masks: Tensor | int


class Entries(NamedTuple):
    """The same, as places in a tensor; `size` is 0 where all models take mask number `first`."""

    first: int
    size: int


class Freezer:
    """Holds fixed weights while K models train, each through phases of its own.

    Who enters a phase in which step is known from the start, and is on the device from then on. A
    step of training calls `enter`, moves the weights, and calls `put_back`, which undoes exactly
    what momentum or weight decay did to fixed weights, unless the plan lets them move.

    Args:
        weights: `(K, P)`, as they are before the first step.
        planned: the phases of each model.
        plan: how fixed weights are treated.
        clipped: gradients are clipped, by the norm of those of trainable weights.

    Attributes:
        filters: the gradients of fixed weights must be zeroed, instead of or before `put_back`.
        state: the names of its attributes that are tensors which steps read or write.
        choices: the names of its attributes that are tensors which `enter` reads.
        timetable: all that makes `enter` do something else.
        kind: all that makes `put_back` do something else.
        mask: which weights train now, `(K, P)`, or `(1, P)` if one mask holds for all throughout.
        anchor: where fixed weights are held, `(K, P)`.
    """

    def __init__(
        self,
        weights: Tensor,
        planned: Sequence[Sequence[Phase]],
        plan: MaskPlan,
        clipped: bool = False,
    ):
        masked = any(phase.trains is not None for own in planned for phase in own)
        # Momentum of fixed weights must not pile up where it outlives their mask.
        outlives = (clipped or not plan.reset) and not plan.fixed_lr_scale
        self.filters = masked and (plan.freeze == "grad_only" or outlives)
        self._plan = plan
        self._starts, self.columns, masks = _starts(planned, weights, masked)
        self.timetable = tuple(self._starts.items())
        self.mask = self.anchor = weights[:0]
        self.state = ("mask", "anchor") if masked else ()
        if masked:
            self.anchor = weights.clone()
            self.mask = masks if len(masks) == 1 else masks.new_empty(weights.shape)
        self.kind = masked, self.filters, plan.freeze, plan.fixed_lr_scale, len(self.mask)
        self.masks = masks if len(masks) > 1 else masks[:0]  # to choose from
        self.choices = ("masks", "columns")

    def enter(self, step: int, weights: Tensor) -> Entering | None:
        """Take the masks of the models that enter a phase at this step, and hold their weights.

        Return those whose optimiser must start fresh; None if there are none.
        """
        entries = self._starts.get(step)
        if entries is None:
            return None
        entering = self._entering(entries)
        rows, masks = entering
        if len(self.masks):
            _put(self.mask, rows, self.masks[masks])
        if not step:
            return None  # all is as it was when the anchor was made
        if self.state:
            _put(self.anchor, rows, weights if rows is None else weights[rows])
        return entering if self._plan.reset else None

    def _entering(self, entries: Entries) -> Entering:
        if not entries.size:
            return Entering(None, entries.first)
        rows, masks = self.columns[:, entries.first : entries.first + entries.size]
        return Entering(rows, masks)

    def trains(self, count: int) -> Tensor | None:
        """Return which weights of the first k models train now, `(k, P)`; None: all of them."""
        return self.mask[:count].expand(count, -1) if self.state else None

    def put_back(self, weights: Tensor) -> None:
        """Undo what a step did to the fixed weights of the first k models, `(k, P)`, in place."""
        if not self.state or self._plan.freeze == "grad_only":
            return
        mask, anchor = self.mask[: len(weights)], self.anchor[: len(weights)]
        if not self._plan.fixed_lr_scale:
            torch.where(mask, weights, anchor, out=weights)
            return
        slowed = torch.lerp(anchor, weights, self._plan.fixed_lr_scale)
        anchor.copy_(torch.where(mask, weights, slowed, out=weights))


def _starts(
    planned: Sequence[Sequence[Phase]], weights: Tensor, masked: bool
) -> tuple[dict[int, Entries], Tensor, Tensor]:
    """Return, by step, which models enter a phase there: places among the columns.

    Those are the numbers of models and of their masks, `(2, n)`, and come next; then all masks,
    `(M, P)`, if there are any. Where one mask holds throughout, nobody needs to know who enters at
    step 0.
    """
    whole = torch.ones(weights.shape[1], dtype=torch.bool)
    starts, places = defaultdict[int, list[tuple[int, int]]](list), dict[int, int]()
    masks: list[Tensor] = []
    for own, rows in alike(planned):
        step = 0
        for phase in own:
            mask = whole if phase.trains is None else phase.trains
            if phase.steps and places.setdefault(id(mask), len(masks)) == len(masks):
                masks.append(mask)
            if phase.steps:
                starts[step] += [(row, places[id(mask)]) for row in rows]
            step += phase.steps
    if len(masks) == 1:
        starts.pop(0)
    entries, listed = dict[int, Entries](), list[tuple[int, int]]()
    for step, pairs in starts.items():
        numbers = {mask for _, mask in pairs}
        together = len(pairs) == len(planned) and len(numbers) == 1
        entries[step] = Entries(numbers.pop(), 0) if together else Entries(len(listed), len(pairs))
        listed += [] if together else pairs
    every = masks[0][None] if len(masks) == 1 else torch.stack(masks)
    columns = torch.tensor(listed, dtype=torch.int64).reshape(-1, 2).T.contiguous()
    to = weights.device
    return entries, send(columns, to), send(every, to) if masked else weights[:0]


def _put(to: Tensor, rows: Tensor | None, values: Tensor) -> None:
    """Set some rows, or all of them."""
    if rows is None:
        to.copy_(values)
    else:
        to.index_copy_(0, rows, values)


def alike(planned: Sequence[Sequence[Phase]]) -> list[tuple[Sequence[Phase], list[int]]]:
    """Return each sequence of phases, and the rows of the models that go through it."""
    rows = defaultdict[int, list[int]](list)
    for row, own in enumerate(planned):
        rows[id(own)].append(row)
    return [(planned[same[0]], same) for same in rows.values()]
