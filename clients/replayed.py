"""Local training whose steps are captured once and replayed."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor

from clients.steps import Plan, Step
from fedalign.network.graphs import Captured, Graphs

SAME = 2  # rounds of one form, after which a round of that form is captured as one
MOST_STEPS = 64  # of a round that is


class Replayed:
    """Steps of stacks of one shape; what they read and write stays in its place for the run.

    Args:
        graphs: captures steps.
        algorithm: makes the steps; kept here, since its address is a part of what names this.
    """

    def __init__(self, graphs: Graphs, algorithm: object):
        self._graphs, self._algorithm, self._round = graphs, algorithm, 0
        self._tensors: dict[str, Tensor] = {}
        self._captured: dict[Hashable, Captured] = {}  # by a number of clients, or a round's form
        self._form: Hashable = None
        self._same, self._whole = 0, False  # rounds before this one that had its form

    def settle(self, owner: str, tensors: dict[str, Any], names: Sequence[str]) -> None:
        """Move some of the owner's tensors to where they stay from round to round."""
        for name in names:
            tensors[name] = self._settled(f"{owner}.{name}", tensors[name])

    def release(self, tensors: dict[str, Tensor]) -> None:
        """Copy those of some tensors that the next round would overwrite."""
        places = {place.untyped_storage().data_ptr() for place in self._tensors.values()}
        for name, tensor in tensors.items():
            if tensor.untyped_storage().data_ptr() in places:
                tensors[name] = tensor.clone()

    def begin(self, plan: Plan, timetable: Hashable) -> bool:
        """Begin a round; return whether all of its steps are one captured piece of work.

        They are once the rounds before have had the same shapes, and did the same between steps.
        """
        form = tuple(plan.widths), timetable, tuple(t.shape for t in plan.tensors())
        self._same = self._same + 1 if form == self._form else 0
        self._form, self._round = form, self._round + 1
        known = self._captured.get(form)
        self._whole = self._same >= SAME and len(plan.widths) <= MOST_STEPS
        self._whole &= known is None or not known.is_plain
        return self._whole

    def run(
        self, plan: Plan, enter: Callable[[int], None], make: Callable[[Step], Tensor]
    ) -> Tensor:
        """Make all steps of a round; return their losses, `(T, K)`, 0 once a client has finished.

        Args:
            plan: the steps.
            enter: begins a step by its number. Between captured steps it is called as it is.
            make: makes a step of the first k clients and returns their losses `(k,)`.
        """
        if self._whole:
            return self._run_whole(plan, enter, make)
        losses = torch.zeros(plan.sizes.shape, device=plan.device)
        places = [
            self._settled(f"step.{place}", value)
            for place, value in enumerate(plan.at(0).tensors())
        ]
        loss, state = self._settled("loss", losses[0]), list(self._tensors.values())
        inputs_of = cache(lambda width: [tensor[:width] for tensor in places])
        for number, width in enumerate(plan.widths):
            inputs = inputs_of(width)
            for to, value in zip(inputs, plan.at(number).tensors(), strict=True):
                to.copy_(value)
            enter(number)
            captured = self._captured.setdefault(width, Captured(self._graphs))
            work = partial(_make, make, Step((), *inputs), loss[:width])
            captured.do(work, state, self._round)
            losses[number, :width] = loss[:width]
        return losses

    def _run_whole(
        self, plan: Plan, enter: Callable[[int], None], make: Callable[[Step], Tensor]
    ) -> Tensor:
        """Do what `run` does by one piece of captured work."""
        places = [
            self._settled(f"plan.{place}", value) for place, value in enumerate(plan.tensors())
        ]
        losses = self._settled("losses", torch.zeros(plan.sizes.shape, device=plan.device))

        def work() -> None:
            for number, width in enumerate(plan.widths):
                enter(number)
                inputs = [tensor[number, :width] for tensor in places]
                _make(make, Step((), *inputs), losses[number, :width])

        captured = self._captured.setdefault(self._form, Captured(self._graphs))
        captured.do(work, list(self._tensors.values()), self._round)
        return losses.clone()

    def _settled(self, name: str, tensor: Tensor) -> Tensor:
        """Return a tensor of the same values that stays where it is."""
        place = self._tensors.get(name)
        if place is None or place.shape != tensor.shape:
            self._captured.clear()
            self._tensors[name] = place = torch.empty_like(tensor).contiguous()
        return place.copy_(tensor)


def _make(make: Callable[[Step], Tensor], step: Step, losses: Tensor) -> None:
    """Make a step, and put its losses where they belong."""
    losses.copy_(make(step))
