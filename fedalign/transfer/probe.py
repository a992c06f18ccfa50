"""Probing: how well the classes of a task can be told apart by the features of a body.

Multinomial logistic regression on standardised features, as representations are commonly judged
(Alain and Bengio 2017, arXiv 1610.01644).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fedalign.landscape.barriers import Point
from fedalign.rng import rng

STRENGTHS = (10.0, 1.0, 0.1, 0.01, 1e-3, 1e-4)  # of the L2 norm, to choose from
HELD_BACK = 5  # one part in so many of the training examples, to choose by
LEAST = 10  # training examples
TINY = 1e-6  # a deviation, relative to the mean, that is rounding
MOST_STEPS, FLAT = 1000, 1e-7  # of L-BFGS; the largest derivative where it may end


@dataclass(frozen=True, eq=False)
class Labelled:
    """Features `(N, D)` float64 and labels `(N,)`, on the host."""

    features: Tensor
    labels: Tensor

    def at(self, rows: np.ndarray) -> Labelled:
        """Return the examples with these numbers."""
        return Labelled(self.features[rows], self.labels[rows])


@dataclass(frozen=True, eq=False)
class Probe:
    """A linear classifier of standardised features.

    Attributes:
        mean: `(D,)`, of the training examples' features.
        std: `(D,)`; 1 for a feature that never changes.
        weights: `(D + 1, C)`; the last row is the bias.
    """

    mean: Tensor
    std: Tensor
    weights: Tensor

    def inputs(self, features: Tensor) -> Tensor:
        """Return features `(N, D)` standardised, and a column of ones."""
        return functional.pad((features - self.mean) / self.std, (0, 1), value=1.0)

    def test(self, data: Labelled) -> Point:
        """Return mean cross-entropy and accuracy."""
        logits = self.inputs(data.features) @ self.weights
        right = (logits.argmax(1) == data.labels).double().mean()
        return float(functional.cross_entropy(logits, data.labels)), float(right)


def probed(train: Labelled, test: Labelled, classes: int, l2: float | None = None) -> Point:
    """Return loss and accuracy on test examples of a probe that is fitted to training examples.

    With `l2` None its weight is that of `STRENGTHS` whose probe, fitted to four fifths of the
    training examples, has the least loss on the others; of equals the strongest.
    """
    return fit(train, classes, l2 or chosen(train, classes)).test(test)


def chosen(train: Labelled, classes: int) -> float:
    """Return the weight of the L2 norm that is best for training examples held back."""
    order = rng(0, "probe", len(train.labels)).permutation(len(train.labels))
    held, rest = np.split(order, [len(order) // HELD_BACK])
    losses = [fit(train.at(rest), classes, l2).test(train.at(held))[0] for l2 in STRENGTHS]
    return STRENGTHS[int(np.argmin(losses))]


def fit(train: Labelled, classes: int, l2: float) -> Probe:
    """Return the probe with the least mean cross-entropy plus l2/2 times its squared weights.

    The bias counts among them, so that there is always one such probe, also where training examples
    lack a class. It is found by L-BFGS, in float64, down to a gradient of `FLAT`.
    """
    mean, std = train.features.mean(0), train.features.std(0, correction=0)
    std = torch.where(std > TINY * mean.abs(), std, 1.0)
    weights = torch.zeros(len(mean) + 1, classes, dtype=torch.float64)
    probe = Probe(mean, std, weights)
    inputs, targets = probe.inputs(train.features), functional.one_hot(train.labels, classes)
    how: dict[str, Any] = {"max_iter": MOST_STEPS, "tolerance_grad": FLAT, "tolerance_change": 0.0}
    # SciPy's would compute on threads of its own, whose number is not ours to say.
    search: Any = torch.optim.LBFGS([weights], **how, line_search_fn="strong_wolfe")

    def objective() -> float:
        logs = (inputs @ weights).log_softmax(1)
        weights.grad = inputs.T @ (logs.exp() - targets) / len(inputs) + l2 * weights
        return float(l2 / 2 * weights.square().sum() - (logs * targets).sum() / len(inputs))

    search.step(objective)
    return probe
