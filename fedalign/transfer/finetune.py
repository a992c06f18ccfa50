"""Fine-tuning: how good a model becomes for a task that starts from a body and a new head."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from fedalign.algorithm import Stack
from fedalign.data import Spec
from fedalign.errors import InputError
from fedalign.federation.federation import Federation
from fedalign.masks.plan import MaskPlan
from fedalign.network.constants import constants
from fedalign.network.layout import Entry
from fedalign.network.network import Network
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
        self.network, self._seed = self._own.network, config.seed
        self._body = _body(federation.network, self.network, head, spec.classes)

    def start(self, model: Tensor, task: str) -> Tensor:
        """Return the body of one of the run's models `(F,)` with the new head of a task."""
        module = self._own.module("task", task, filled=False)
        fresh = self.network.layout.flatten(module).to(model.device)
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


def _body(run: Network, own: Network, head: str, classes: int) -> list[tuple[Entry, Entry]]:
    """Return the tensors of the body in a model of the run, and in one with other classes.

    What of it never trains is copied here and now.
    """
    inside, place = f"{head}.".lstrip("."), f"{PLACE}: a model of {classes} classes"
    for tied in (name for pair in own.layout.aliases for name in pair):
        if tied.startswith(inside):
            raise InputError(f"{place}: its head {head!r} shares {tied!r} with the body")
    if not any(entry.name.startswith(inside) for entry in own.layout.parameters):
        raise InputError(f"{place}: its head {head!r} never trains; give ways: [probe]")
    theirs, ours = _shapes(run), _shapes(own)
    for name, shape in ours.items():
        if not name.startswith(inside) and theirs.get(name) != shape:
            raise InputError(f"{place}: {name!r} is {shape}, and the run's {theirs.get(name)}")
    fixed = constants(run.module)
    for name, tensor in constants(own.module).items():
        if not name.startswith(inside):
            tensor.copy_(fixed[name])
    known = {entry.name: entry for entry in run.layout.entries}
    body = [entry for entry in own.layout.entries if not entry.name.startswith(inside)]
    return [(known[entry.name], entry) for entry in body]


def _shapes(network: Network) -> dict[str, tuple[int, ...]]:
    """Return the shape of all that a network has, trained or not, by name."""
    fixed = {name: tuple(tensor.shape) for name, tensor in constants(network.module).items()}
    return fixed | {entry.name: entry.shape for entry in network.layout.entries}
