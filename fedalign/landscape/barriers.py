"""How much worse models between models are than those models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Point = tuple[float, float]  # mean cross-entropy and accuracy of one model


@dataclass(frozen=True)
class Curve:
    """Loss and accuracy along a straight line between two models.

    Attributes:
        path: what lies at the ends, such as `global` or `clients:3-7`.
        alphas: `(A,)`, from 0, the first model, to 1, the second.
        losses: `(A,)` mean cross-entropy.
        accuracies: `(A,)`, between 0 and 1.
    """

    path: str
    alphas: np.ndarray
    losses: np.ndarray
    accuracies: np.ndarray


def loss_barrier(curve: Curve) -> float:
    """Return max over alpha of loss minus the line between the end losses.

    Entezari et al. (2022), with the alpha-weighted mix of the end losses as the line; the authors
    of arXiv 2402.01342 compute the same. In nats; never negative, since the ends lie on the line.
    """
    return float(np.max(curve.losses - _line(curve.alphas, curve.losses)))


def accuracy_barrier(curve: Curve) -> float:
    """Return the relative loss of accuracy where it is largest: 0 none, 1 a useless model.

    `(line - accuracy) / line` at the alpha that maximises `line - accuracy`, where `line` mixes the
    end accuracies: as in the public code of the authors of arXiv 2402.01342.
    """
    line = _line(curve.alphas, curve.accuracies)
    worst = int(np.argmax(line - curve.accuracies))
    if line[worst] == 0:
        return 0.0
    return float((line[worst] - curve.accuracies[worst]) / line[worst])


def fusion_gap(fused: Point, apart: Sequence[Point], weights: Sequence[float]) -> dict[str, float]:
    """Return how much worse the aggregate is than the models that it was made of, for metrics.

    `fusion_gap` is `L(aggregate) - sum_i w_i L(theta_i)` in nats, `fusion_gap_accuracy` is
    `sum_i w_i A(theta_i) - A(aggregate)`, and `w_i` client i's share of the examples. It is the
    group barrier of FedGuCci (Li et al., arXiv 2402.18949), where all weights are 1/K, for the
    weights of federated averaging. Negative where the aggregate is better than its parts.
    """
    loss, accuracy = np.average(apart, axis=0, weights=weights)
    return {
        "fusion_gap": float(fused[0] - loss),
        "fusion_gap_accuracy": float(accuracy - fused[1]),
    }


def _line(alphas: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Mix the end values; exact where they are equal, so that equal models have barrier 0."""
    start, end = float(values[0]), float(values[-1])
    line = start + alphas * (end - start)
    line[-1] = end  # to the bit, so that an end is no barrier
    return line
