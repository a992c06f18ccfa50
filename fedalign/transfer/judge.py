"""Judge the body of a model by tasks: probing and fine-tuning, on seen and unseen data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from torch import Tensor

from fedalign.data import Dataset, Spec
from fedalign.federation.federation import Federation
from fedalign.landscape.barriers import Point
from fedalign.network.network import Network
from fedalign.settings.sections import Evaluation
from fedalign.transfer.finetune import Tuner
from fedalign.transfer.probe import Labelled, probed
from fedalign.transfer.tasks import Task, check_model, tasks_of


class TaskScore(NamedTuple):
    """How good a body is for a task, as a row of `tasks.csv` has it.

    Attributes:
        task: its name.
        seen: 1 if clients train on it, else 0.
        way: `probe` or `finetune`.
        accuracy: on its test examples.
        loss: mean cross-entropy on them.
        examples: number of training examples.
    """

    task: str
    seen: int
    way: str
    accuracy: float
    loss: float
    examples: int


class Judge:
    """Judges models of a run by its `evaluation.tasks`.

    Args:
        federation: the run's; none of its networks is touched.

    Attributes:
        tasks: with their data.
        network: runs the bodies.
    """

    def __init__(self, federation: Federation):
        self.tasks, self._settings = tasks_of(federation), federation.config.evaluation
        self.network = federation.network.twin()
        self._tuners: dict[Spec, Tuner] = {}
        if self._settings.tasks.tunes:
            head = check_model(federation)
            for spec in dict.fromkeys(task.spec for task in self.tasks):
                self._tuners[spec] = Tuner(federation, spec, head)

    def scores(self, model: Tensor) -> list[TaskScore]:
        """Return how good the body of a model `(F,)` is, task by task."""
        found = []
        for task in self.tasks:
            for way in self._settings.tasks.ways:
                loss, accuracy = (self._probe if way == "probe" else self._tune)(model, task)
                facts = accuracy, loss, len(task.train)
                found.append(TaskScore(task.name, int(task.seen), way, *facts))
        return found

    def _probe(self, model: Tensor, task: Task) -> Point:
        train, test = (
            labelled(self.network, model, data, self._settings) for data in (task.train, task.test)
        )
        return probed(train, test, task.spec.classes, self._settings.tasks.l2)

    def _tune(self, model: Tensor, task: Task) -> Point:
        tuner, settings = self._tuners[task.spec], self._settings
        tuned = tuner.tune(model, task)
        return tuner.network.evaluate(tuned, task.test, settings.batch_size, settings.threads)


def labelled(network: Network, model: Tensor, data: Dataset, settings: Evaluation) -> Labelled:
    """Return the features of examples in a model `(F,)`, on the host."""
    how = settings.statistics_batch, settings.threads
    (features,) = network.features(model[None], data.images[None], *how)
    return Labelled(features.double().cpu(), data.labels.cpu())


def means(scores: Sequence[TaskScore]) -> dict[str, float]:
    """Return mean accuracies over seen and over unseen tasks, as `metrics.csv` calls them."""
    found: dict[str, list[float]] = {}
    for score in scores:
        found.setdefault(column(score.way, bool(score.seen)), []).append(score.accuracy)
    return {name: float(np.mean(own)) for name, own in found.items()}


def columns(settings: Evaluation) -> list[str]:
    """Return the columns of `metrics.csv` that tasks fill."""
    tasks = settings.tasks
    return [column(way, seen) for way in tasks.ways for seen in (True, False) if tasks.on]


def column(way: str, seen: bool) -> str:
    """Return the name of the mean accuracy of a way over seen or unseen tasks."""
    return f"{way}_{'seen' if seen else 'unseen'}"
