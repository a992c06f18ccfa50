"""What the server measures after a round: the global model, and the models between models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import comb

import numpy as np
import torch
from flwr.app import ArrayRecord
from torch import Tensor

from fedalign.data import Dataset
from fedalign.landscape.barriers import Curve, Point, accuracy_barrier, fusion_gap, loss_barrier
from fedalign.network import Network
from fedalign.rng import rng
from fedalign.rounds import Round
from fedalign.sections import Evaluation


@dataclass
class Measure:
    """A callback that evaluates the new global model and the straight lines of the round.

    Lines go from the previous global model to the new one (`global`), and between sampled pairs
    of the round's client models (`clients:i-j`). On every point of a line, the ends included,
    BatchNorm statistics are re-estimated, so that a barrier compares like with like.

    Attributes:
        rounds: how many the run has; the last one is measured, whatever `settings.every` says.
        sizes: how many examples each partition has: its weight in the fusion gap.
        curves: the lines of the latest round.
    """

    network: Network
    test: Dataset
    train: Dataset
    settings: Evaluation
    seed: int
    rounds: int
    sizes: Sequence[int]
    curves: list[Curve] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._probe = self.test.subset(self.settings.examples)
        self._chosen: list[tuple[int, int]] = []
        self._bn = self.train.subset(self.settings.bn_examples).images

    def on_round(self, outcome: Round) -> None:
        """Add the global model's test loss and accuracy, the mean barriers and the fusion gap."""
        after = self._vector(outcome.after)
        loss, accuracy = self._evaluate(after, self.test)
        outcome.metrics |= {"test_loss": loss, "test_accuracy": accuracy}
        self.curves = []
        if self._is_due(outcome.number):
            self._measure(outcome, after)

    def wants(self, number: int, partitions: Sequence[int]) -> set[int]:
        """Return whose models are measured, of all who take part in the round."""
        due = self._is_due(number)
        self._chosen = self._pairs(number, partitions) if due and self.settings.alphas else []
        if due and self.settings.fusion_gap:
            return set(partitions)
        return {partition for pair in self._chosen for partition in pair}

    def curve(
        self, path: str, start: Tensor, end: Tensor, ends: Sequence[Point | None] = (None, None)
    ) -> Curve:
        """Return loss and accuracy along the line between two models `(F,)`.

        An end that has been measured already is given in `ends` and not measured again.
        """
        alphas = np.linspace(0, 1, self.settings.alphas)
        inner = [self._point(torch.lerp(start, end, float(alpha))) for alpha in alphas[1:-1]]
        first, last = ends[0] or self._point(start), ends[1] or self._point(end)
        losses, accuracies = zip(first, *inner, last, strict=True)
        return Curve(path, alphas, np.array(losses), np.array(accuracies))

    def _is_due(self, number: int) -> bool:
        settings = self.settings
        due = number % settings.every == 0 or number == self.rounds
        return due and (settings.fusion_gap or settings.alphas > 0)

    def _measure(self, outcome: Round, after: Tensor) -> None:
        """Add the fusion gap and the barriers; a model at the end of several lines counts once."""
        fused = self._point(after)
        apart = {i: self._point(self._vector(model)) for i, model in outcome.clients.items()}
        if self.settings.fusion_gap and apart:
            weights = [self.sizes[partition] for partition in apart]
            outcome.metrics |= fusion_gap(fused, list(apart.values()), weights)
        if self.settings.alphas:
            steps = [self.curve("global", self._vector(outcome.before), after, (None, fused))]
            pairs = [pair for pair in self._chosen if apart.keys() >= set(pair)]
            between = [self._between(outcome.clients, pair, apart) for pair in pairs]
            self.curves = steps + between
            outcome.metrics |= _barriers("global", steps) | _barriers("client", between)

    def _between(
        self,
        clients: Mapping[int, ArrayRecord],
        pair: tuple[int, int],
        points: Mapping[int, Point],
    ) -> Curve:
        start, end = (self._vector(clients[partition]) for partition in pair)
        return self.curve(
            f"clients:{pair[0]}-{pair[1]}", start, end, [points[partition] for partition in pair]
        )

    def _vector(self, model: ArrayRecord) -> Tensor:
        return self.network.layout.to_vector(model)

    def _point(self, vector: Tensor) -> Point:
        vector = self.network.recalibrate(vector, self._bn, self.settings.batch_size)
        return self._evaluate(vector, self._probe)

    def _evaluate(self, vector: Tensor, data: Dataset) -> Point:
        settings = self.settings
        return self.network.evaluate(vector, data, settings.batch_size, settings.threads)

    def _pairs(self, number: int, partitions: Sequence[int]) -> list[tuple[int, int]]:
        stream = rng(self.seed, "pairs", number)
        count = min(self.settings.pairs, comb(len(partitions), 2))
        chosen: set[tuple[int, int]] = set()
        while len(chosen) < count:
            first, second = sorted(int(i) for i in stream.choice(partitions, 2, replace=False))
            chosen.add((first, second))
        return sorted(chosen)


def _barriers(kind: str, curves: list[Curve]) -> dict[str, float]:
    if not curves:
        return {}
    return {
        f"{kind}_loss_barrier": float(np.mean([loss_barrier(curve) for curve in curves])),
        f"{kind}_accuracy_barrier": float(np.mean([accuracy_barrier(curve) for curve in curves])),
    }
