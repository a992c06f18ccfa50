"""Holds fixed weights where they are, whatever an optimiser does."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor

from fedalign.masks.phases import Phase
from fedalign.masks.plan import MaskPlan


class Freezer:
    """Holds fixed weights while K models train, each through phases of its own.

    A step of training calls `enter`, moves the weights, and calls `put_back`, which undoes exactly
    what momentum or weight decay did to fixed weights, unless the plan lets them move.

    Args:
        weights: `(K, P)`, as they are before the first step.
        planned: the phases of each model.
        plan: how fixed weights are treated.
        clipped: gradients are clipped, by the norm of those of trainable weights.

    Attributes:
        filters: the gradients of fixed weights must be zeroed, instead of or before `put_back`.
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
        self._starts = _starts(planned)
        self._anchor = weights.clone() if masked else None  # where fixed weights are held
        self._masks: list[Tensor | None] = [None] * len(planned)  # of each model
        self._mask: Tensor | None = None  # of all, `(K, P)`

    def enter(self, step: int, weights: Tensor) -> list[int]:
        """Take the masks of the models that enter a phase at this step, and hold their weights.

        Return the rows of those whose optimiser must start fresh.
        """
        starting = self._starts.pop(step, [])
        for row, mask in starting:
            self._masks[row] = mask
            if step and self._anchor is not None:
                self._anchor[row] = weights[row]
        if starting and self._anchor is not None:
            self._mask = self._combined(weights)
        return [row for row, _ in starting if step and self._plan.reset]

    def trains(self, count: int) -> Tensor | None:
        """Return which weights of the first k models train now, `(k, P)`; None: all of them."""
        return None if self._mask is None else self._mask[:count]

    def put_back(self, weights: Tensor) -> None:
        """Undo what a step did to the fixed weights of the first k models, `(k, P)`, in place."""
        if self._mask is None or self._anchor is None or self._plan.freeze == "grad_only":
            return
        mask, anchor = self._mask[: len(weights)], self._anchor[: len(weights)]
        if not self._plan.fixed_lr_scale:
            torch.where(mask, weights, anchor, out=weights)
            return
        slowed = torch.lerp(anchor, weights, self._plan.fixed_lr_scale)
        anchor.copy_(torch.where(mask, weights, slowed, out=weights))

    def _combined(self, weights: Tensor) -> Tensor | None:
        """Return the masks of all models, `(K, P)`; None if everything trains."""
        first = self._masks[0]
        if all(mask is first for mask in self._masks):
            return None if first is None else first.to(weights.device).expand(len(weights), -1)
        whole = torch.ones(weights.shape[1], dtype=torch.bool)
        masks = [whole if mask is None else mask for mask in self._masks]
        return torch.stack(masks).to(weights.device)


def _starts(planned: Sequence[Sequence[Phase]]) -> dict[int, list[tuple[int, Tensor | None]]]:
    """Return, by step, which models enter a phase there, each with the mask of that phase."""
    starts = defaultdict[int, list[tuple[int, Tensor | None]]](list)
    for row, own in enumerate(planned):
        step = 0
        for phase in own:
            starts[step].append((row, phase.trains))
            step += phase.steps
    return dict(starts)
