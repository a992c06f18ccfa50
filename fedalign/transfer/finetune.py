"""Fine-tuning: how good a model becomes for a task that starts from a body and a new head."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from fedalign.algorithm import Stack
from fedalign.data import Spec
from fedalign.errors import InputError
from fedalign.federation.federation import Federation
from fedalign.masks.plan import MaskPlan
from fedalign.network.layout import Entry, Layout
from fedalign.rng import rng
from fedalign.seeding import seeded
from fedalign.settings.tasks import PLACE, tuned
from fedalign.transfer.tasks import Task


class Tuner:
    """Fine-tunes bodies for tasks with the same number of classes, by the run's client algorithm.

    All that is random depends on the run's seed and the task alone: every body gets the same new
    head and sees the examples in the same order, so that only bodies make a difference.

    Args:
        federation: the run's.
        spec: of the tasks' examples.
        head: the name of the layer that is new.

    Attributes:
        network: a model with the tasks' classes.

    Raises:
        InputError: such a model has another body than the run's.
    """

    def __init__(self, federation: Federation, spec: Spec, head: str):
        config = federation.config
        client = tuned(config.evaluation.tasks, config.client)
        config = config.model_copy(update={"client": client, "per_client": None})
        self._own = Federation(config, known=spec)
        self.network, self._seed, self._head = self._own.network, config.seed, head
        self._body = _body(federation.network.layout, self.network.layout, head, spec.classes)

    def start(self, model: Tensor, task: str) -> Tensor:
        """Return the body of one of the run's models `(F,)` with the new head of a task."""
        fresh = self.network.layout.flatten(self._own.module("task", task, filled=False)).to(
            model.device
        )
        for theirs, ours in self._body:
            ours.view(fresh).copy_(theirs.view(model))
        return fresh

    def tune(self, model: Tensor, task: Task) -> Tensor:
        """Return the model that one of the run's models `(F,)` becomes for a task."""
        start, stream = self.start(model, task.name), ("finetune", task.name)
        rows, streams = [np.arange(len(task.train))], [rng(self._seed, *stream)]
        stack = Stack(
            self.network, task.train, start, start[None].clone(), rows, streams, [MaskPlan()]
        )
        self.network.restart()
        with seeded(self._seed, *stream):
            self._own.client_of(0).train(stack)
        return stack.block[0]


def _body(run: Layout, own: Layout, head: str, classes: int) -> list[tuple[Entry, Entry]]:
    """Return the tensors of the body, in a model of the run and in one with other classes."""
    inside = f"{head}.".lstrip(".")
    place = f"{PLACE}: a model of {classes} classes"
    for tied in (name for pair in own.aliases for name in pair):
        if tied.startswith(inside):
            raise InputError(f"{place}: its head {head!r} shares {tied!r} with the body")
    known, found = {entry.name: entry for entry in run.entries}, []
    for entry in own.entries:
        if not entry.name.startswith(inside):
            theirs = known.get(entry.name)
            if theirs is None or theirs.shape != entry.shape:
                has = theirs and theirs.shape
                raise InputError(f"{place}: {entry.name!r} is {entry.shape}, and the run's {has}")
            found.append((theirs, entry))
    return found
