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
    """Which models enter a phase at a step, `(n,)` rows, and which of the masks hold then."""

    rows: Tensor
    masks: Tensor


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
        self._starts, masks = _starts(planned, weights, masked)
        self.mask = self.anchor = weights[:0]
        self.state = ("mask", "anchor") if masked else ()
        if masked:
            self.anchor = weights.clone()
            self.mask = masks if len(masks) == 1 else masks.new_empty(weights.shape)
        self.kind = masked, self.filters, plan.freeze, plan.fixed_lr_scale, len(self.mask)
        self._masks = masks if len(masks) > 1 else None  # to choose from

    def enter(self, step: int, weights: Tensor) -> Tensor | None:
        """Take the masks of the models that enter a phase at this step, and hold their weights.

        Return the rows of those whose optimiser must start fresh; None if there are none.
        """
        entering = self._starts.get(step)
        if entering is None:
            return None
        if self._masks is not None:
            self.mask.index_copy_(0, entering.rows, self._masks[entering.masks])
        if not step:
            return None  # all is as it was when the anchor was made
        if self.state:
            self.anchor.index_copy_(0, entering.rows, weights[entering.rows])
        return entering.rows if self._plan.reset else None

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
) -> tuple[dict[int, Entering], Tensor]:
    """Return, by step, which models enter a phase there; and all masks, `(M, P)`, if there are any.

    Where one mask holds throughout, nobody needs to know who enters at step 0.
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
    entering = {step: Entering(*_columns(pairs, weights)) for step, pairs in starts.items()}
    every = masks[0][None] if len(masks) == 1 else torch.stack(masks)
    return entering, send(every, weights.device) if masked else weights[:0]


def alike(planned: Sequence[Sequence[Phase]]) -> list[tuple[Sequence[Phase], list[int]]]:
    """Return each sequence of phases, and the rows of the models that go through it."""
    rows = defaultdict[int, list[int]](list)
    for row, own in enumerate(planned):
        rows[id(own)].append(row)
    return [(planned[same[0]], same) for same in rows.values()]


def _columns(pairs: list[tuple[int, int]], weights: Tensor) -> Tensor:
    """Return both columns, on the device of the weights."""
    columns = torch.tensor(pairs, dtype=torch.int64).T.contiguous()
    return send(columns, weights.device)
