"""What the server measures after a round: the global model, and the models between models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import comb

import numpy as np
import torch
from flwr.app import ArrayRecord
from torch import Tensor

from fedalign.config import Evaluation
from fedalign.data import Dataset
from fedalign.landscape.barriers import Curve, accuracy_barrier, loss_barrier
from fedalign.network import Network
from fedalign.rng import rng
from fedalign.rounds import Round


@dataclass
class Measure:
    """A callback that evaluates the new global model and the straight lines of the round.

    Lines go from the previous global model to the new one (`global`), and between sampled pairs
    of the round's client models (`clients:i-j`). On every point of a line, the ends included,
    BatchNorm statistics are re-estimated, so that a barrier compares like with like.

    Attributes:
        curves: the lines of the latest round.
    """

    network: Network
    test: Dataset
    train: Dataset
    settings: Evaluation
    seed: int
    curves: list[Curve] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._probe = self.test.subset(self.settings.examples)
        self._chosen: list[tuple[int, int]] = []
        self._bn = self.train.subset(self.settings.bn_examples).images

    def on_round(self, outcome: Round) -> None:
        """Add the global model's test loss and accuracy and the round's mean barriers."""
        after = self.network.layout.to_vector(outcome.after)
        loss, accuracy = self._evaluate(after, self.test)
        outcome.metrics |= {"test_loss": loss, "test_accuracy": accuracy}
        if self.settings.alphas:
            self._measure_paths(outcome, after)

    def wants(self, number: int, partitions: Sequence[int]) -> set[int]:
        """Return whose models the round's lines end in, of all who take part."""
        self._chosen = self._pairs(number, partitions) if self.settings.alphas else []
        return {partition for pair in self._chosen for partition in pair}

    def _measure_paths(self, outcome: Round, after: Tensor) -> None:
        before = self.network.layout.to_vector(outcome.before)
        steps = self.curve("global", before, after)
        there = [pair for pair in self._chosen if outcome.clients.keys() >= set(pair)]
        between = [self._between(outcome.clients, pair) for pair in there]
        self.curves = [steps, *between]
        outcome.metrics |= _barriers("global", [steps]) | _barriers("client", between)

    def curve(self, path: str, start: Tensor, end: Tensor) -> Curve:
        """Return loss and accuracy along the line between two models `(F,)`."""
        alphas = np.linspace(0, 1, self.settings.alphas)
        points = [self._point(torch.lerp(start, end, float(alpha))) for alpha in alphas]
        losses, accuracies = zip(*points, strict=True)
        return Curve(path, alphas, np.array(losses), np.array(accuracies))

    def _point(self, vector: Tensor) -> tuple[float, float]:
        vector = self.network.recalibrate(vector, self._bn, self.settings.batch_size)
        return self._evaluate(vector, self._probe)

    def _evaluate(self, vector: Tensor, data: Dataset) -> tuple[float, float]:
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

    def _between(self, clients: Mapping[int, ArrayRecord], pair: tuple[int, int]) -> Curve:
        start, end = (self.network.layout.to_vector(clients[partition]) for partition in pair)
        return self.curve(f"clients:{pair[0]}-{pair[1]}", start, end)


def _barriers(kind: str, curves: list[Curve]) -> dict[str, float]:
    if not curves:
        return {}
    return {
        f"{kind}_loss_barrier": float(np.mean([loss_barrier(curve) for curve in curves])),
        f"{kind}_accuracy_barrier": float(np.mean([accuracy_barrier(curve) for curve in curves])),
    }
