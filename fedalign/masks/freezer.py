"""Fixed weights stay where they are, whatever an optimiser does."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedalign.masks.plan import MaskPlan, Phase


class Freezer:
    """Holds fixed weights while K models train, each through phases of its own.

    Exact, whatever momentum or weight decay did, unless the plan says otherwise.

    Attributes:
        filters: gradients are to be masked, in place of weights or beside them.

    Args:
        weights: `(K, P)`, as they are before the first step.
        planned: the phases of each model.
        plan: how fixed weights are treated.
        clipped: gradients are clipped, by the norm of what trains.
    """

    def __init__(
        self,
        weights: Tensor,
        planned: Sequence[Sequence[Phase]],
        plan: MaskPlan,
        clipped: bool = False,
    ):
        self._starts: dict[int, list[tuple[int, Tensor | None]]] = {}
        for row, stretch in enumerate(planned):
            step = 0
            for phase in stretch:
                self._starts.setdefault(step, []).append((row, phase.trains))
                step += phase.steps
        masked = any(phase.trains is not None for stretch in planned for phase in stretch)
        self._plan = plan
        # Momentum of fixed weights must not pile up where it outlives their mask.
        filters = plan.freeze == "grad_only" or (
            (clipped or not plan.reset) and not plan.fixed_lr_scale
        )
        self.filters = masked and filters
        self._anchor = weights.clone() if masked else weights[:0]
        self._trains: list[Tensor | None] = [None] * len(planned)
        self._mask: Tensor | None = None

    def enter(self, step: int, weights: Tensor) -> list[int]:
        """Return whose optimiser starts anew: those who go to their next phase at this step."""
        starting = self._starts.pop(step, [])
        for row, trains in starting:
            self._trains[row] = trains
            if step and len(self._anchor):
                self._anchor[row] = weights[row]
        if starting and len(self._anchor):
            self._mask = self._combined(weights)
        return [row for row, _ in starting if step and self._plan.reset]

    def trains(self, count: int) -> Tensor | None:
        """Return which weights of the first k models train now, `(k, P)`; None: all of them."""
        return None if self._mask is None else self._mask[:count]

    def put_back(self, weights: Tensor) -> None:
        """Undo, in the first k models `(k, P)`, what happened to fixed weights."""
        if self._mask is None or self._plan.freeze == "grad_only":
            return
        mask, anchor = self._mask[: len(weights)], self._anchor[: len(weights)]
        if not self._plan.fixed_lr_scale:
            torch.where(mask, weights, anchor, out=weights)
            return
        slowed = torch.lerp(anchor, weights, self._plan.fixed_lr_scale)
        anchor.copy_(torch.where(mask, weights, slowed, out=weights))

    def _combined(self, weights: Tensor) -> Tensor | None:
        """Return the masks of all models, `(K, P)`; None if everything trains."""
        first = self._trains[0]
        if all(trains is first for trains in self._trains):
            return None if first is None else first.to(weights.device).expand(len(weights), -1)
        whole = torch.ones(weights.shape[1], dtype=torch.bool)
        masks = [whole if trains is None else trains for trains in self._trains]
        return torch.stack(masks).to(weights.device)
