"""Barriers: how much worse the models between two models are than the two models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Point = tuple[float, float]  # mean cross-entropy and accuracy of one model


@dataclass(frozen=True)
class Curve:
    """Loss and accuracy along a straight line between two models.

    Attributes:
        path: name of the path, which tells its ends, such as `global` or `clients:3-7`.
        alphas: `(A,)`, ascending from 0 (the first model) through 1 (the second model); values
            above 1 are extrapolation, which barriers ignore.
        losses: `(A,)` mean cross-entropy, in nats.
        accuracies: `(A,)`, between 0 and 1.
    """

    path: str
    alphas: np.ndarray
    losses: np.ndarray
    accuracies: np.ndarray

    @property
    def kind(self) -> str:
        """Kind of the path: its name up to the colon."""
        return self.path.partition(":")[0]


def loss_barrier(curve: Curve) -> float:
    """Return the largest excess of the loss over the line between the end losses, in nats.

    Entezari et al. (2022, section 2), where the line is the alpha-weighted mix of the end losses;
    the authors of arXiv 2402.01342 compute the same. Never negative, since the ends are on the
    line.

    >>> alphas, losses = np.array([0, 0.5, 1]), np.array([1.0, 3.5, 2.0])
    >>> loss_barrier(Curve("global", alphas, losses, losses))
    2.0
    """
    alphas, losses = _between(curve, curve.losses)
    return float(np.max(losses - _line(alphas, losses)))


def accuracy_barrier(curve: Curve) -> float:
    """Return the largest drop in accuracy, relative to the line between the ends: 0 to 1.

    `(line - accuracy) / line` at the alpha that maximises `line - accuracy`, where `line` is the
    alpha-weighted mix of the end accuracies, as in the public code of the authors of arXiv
    2402.01342. 0 is no drop; 1 is a model with accuracy 0.
    """
    alphas, accuracies = _between(curve, curve.accuracies)
    line = _line(alphas, accuracies)
    worst = int(np.argmax(line - accuracies))
    if line[worst] == 0:
        return 0.0
    return float((line[worst] - accuracies[worst]) / line[worst])


def instability(curve: Curve) -> float:
    """Return the largest error rate minus the mean of the end error rates.

    Linear interpolation instability (Frankle et al. 2020, section 2, who call a network stable
    below 0.02). If one end is poor, this differs much from the excess over the line.
    """
    _, accuracies = _between(curve, curve.accuracies)
    return float((accuracies[0] + accuracies[-1]) / 2 - accuracies.min())


def rebasin_barrier(curve: Curve) -> float:
    """Return the largest loss minus the mean of the end losses, in nats.

    Git Re-Basin (Ainsworth et al. 2023, definition 2.2).
    """
    _, losses = _between(curve, curve.losses)
    return float(losses.max() - (losses[0] + losses[-1]) / 2)


def midpoint_gap(curve: Curve) -> Point:
    """Return how much worse the midpoint is than the mean of the ends, in nats and in accuracy.

    The public code of Entezari et al. (2022) reports the gap in accuracy. A curve without a point
    at 0.5 is interpolated linearly.
    """
    gaps = []
    for values, sign in ((curve.losses, 1), (curve.accuracies, -1)):
        alphas, inside = _between(curve, values)
        middle = float(np.interp(0.5, alphas, inside))
        gaps.append(sign * (middle - float(inside[0] + inside[-1]) / 2))
    return gaps[0], gaps[1]


def barriers(curve: Curve) -> dict[str, float]:
    """Return all barriers of a curve, and the values of its ends and midpoint, by column name."""
    _, losses = _between(curve, curve.losses)
    _, accuracies = _between(curve, curve.accuracies)
    loss_gap, accuracy_gap = midpoint_gap(curve)
    return {
        "ends_loss": float(losses[0] + losses[-1]) / 2,
        "midpoint_loss": float(losses[0] + losses[-1]) / 2 + loss_gap,
        "ends_accuracy": float(accuracies[0] + accuracies[-1]) / 2,
        "midpoint_accuracy": float(accuracies[0] + accuracies[-1]) / 2 - accuracy_gap,
        "loss_barrier": loss_barrier(curve),
        "accuracy_barrier": accuracy_barrier(curve),
        "instability": instability(curve),
        "rebasin_barrier": rebasin_barrier(curve),
        "midpoint_loss_gap": loss_gap,
        "midpoint_accuracy_gap": accuracy_gap,
    }


def fusion_gap(aggregate: Point, apart: Sequence[Point], weights: Sequence[float]) -> Point:
    """Return how much worse the aggregate is than the models it was made of, in nats and accuracy.

    `L(aggregate) - sum_i w_i L(theta_i)` and `sum_i w_i A(theta_i) - A(aggregate)`, with `w_i` in
    proportion to `weights`. With equal weights this is the group barrier of FedGuCci (Li et al.,
    arXiv 2402.18949). Negative if the aggregate is better than its parts.
    """
    loss, accuracy = np.average(apart, axis=0, weights=weights)
    return float(aggregate[0] - loss), float(accuracy - aggregate[1])


def _between(curve: Curve, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return alphas and values of a curve without extrapolation."""
    inside = curve.alphas <= 1
    return curve.alphas[inside], values[inside]


def _line(alphas: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the mix of the end values at each alpha; exact for equal ends, whose barrier is 0."""
    start, end = float(values[0]), float(values[-1])
    line = start + alphas * (end - start)
    line[-1] = end  # to the bit, so that an end never counts as a barrier
    return line
