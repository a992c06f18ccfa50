"""After a round, judge the body of the global model by the run's tasks."""

from __future__ import annotations

from fedalign.network.device import torch_threads
from fedalign.server.callbacks import Callback
from fedalign.server.round import Added, Round
from fedalign.settings.sections import Evaluation
from fedalign.transfer.judge import Judge, means

FILE = "tasks.csv"
ROW = ("round", "task", "seen", "way", "accuracy", "loss", "examples")


class Judging(Callback):
    """A callback that judges the new global model, and in round 1 also the start, as round 0.

    Args:
        judge: knows the tasks.
        settings: say in which rounds.
        rounds: the number of the last round, which is always measured.
    """

    def __init__(self, judge: Judge, settings: Evaluation, rounds: int):
        self._judge, self._every, self._rounds = judge, settings.tasks.every, rounds

    def on_round(self, outcome: Round) -> Added | None:
        """Return the scores of all tasks, and their means."""
        number, network = outcome.number, self._judge.network
        models = {0: outcome.before} if number == 1 else {}
        if number % self._every == 0 or number == self._rounds:
            models[number] = outcome.after
        with torch_threads(1):
            found = {n: self._judge.scores(network.vector_of(model)) for n, model in models.items()}
        scored = [(n, *score) for n, scores in found.items() for score in scores]
        rows = [dict(zip(ROW, own, strict=True)) for own in scored]
        return Added(means(found.get(number, ())), tables={FILE: rows})
