"""What a reply must hold, and within which bounds, so that no client ends or bends a run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from math import isfinite, sqrt
from reprlib import repr as short  # a client may write something long
from typing import cast

import numpy as np
from flwr.app import ArrayRecord, MetricRecord

from fedalign.messages.validation import WEIGHT, Bounds, check_bounds
from fedalign.network.arrays import view_of

UPDATE = 100.0  # times the norm of the model that was sent


@dataclass(frozen=True)
class ReplyRules:
    """What the replies to a round's messages must hold.

    Attributes:
        metrics: what the strategy needs, with bounds; see `StrategyTraits.reply_metrics`.
        arrays: names of the vectors that the strategy needs beside the model; it gets no others.
        bounds: of a client's metrics, given its partition and its number of examples.
        examples: by partition, the number of examples that a client has; empty if unknown.
    """

    metrics: Mapping[str, Bounds] = field(default_factory=dict)
    arrays: Collection[str] = ()
    bounds: Callable[[int, int], Mapping[str, Bounds]] = lambda *_: {}
    examples: Mapping[int, int] = field(default_factory=dict)

    def check_metrics(self, metrics: MetricRecord, partition: int) -> None:
        """Raise `ValueError` for a metric that is missing, or out of its bounds.

        The metrics are finite numbers, one of them `num-examples`.
        """
        count = cast(int, metrics[WEIGHT])
        known = self.examples.get(partition, count)
        if count != known:
            raise ValueError(f"{WEIGHT!r} is {count}, and the client has {known}")
        for name in self.metrics.keys() - metrics.keys():
            raise ValueError(f"no metric {name!r} came, which the strategy needs")
        for bounds in (self.metrics, self.bounds(partition, known)):
            for name in bounds.keys() & metrics.keys():
                check_bounds(name, cast(float, metrics[name]), bounds[name])

    def check_arrays(self, arrays: ArrayRecord) -> None:
        """Raise `ValueError` unless these are the vectors that the strategy needs."""
        for name in set(self.arrays) - arrays.keys():
            raise ValueError(f"no vector {name!r} came, which the strategy needs")
        for name in arrays.keys() - set(self.arrays):
            raise ValueError(f"a vector {short(name)} came, which the strategy does not ask for")


def square_of(flat: np.ndarray) -> float:
    """Return the sum of squares, in float32 unless that overflows: a limit need not be exact.

    In float64 BLAS takes several threads for it, which wait for one another on a busy machine.
    """
    with np.errstate(over="ignore"):
        single = flat.astype(np.float32, copy=False)
        square = float(np.dot(single, single))
    if isfinite(square):
        return square
    double = flat.astype(np.float64, copy=False)
    return float(np.dot(double, double))


def update_limit(model: ArrayRecord, names: Collection[str] | None = None) -> float:
    """Return how far a client may move where no limit is set: 100 times the norm of the model.

    A model whose norm is below 1 counts as one of norm 1.

    Args:
        model: that is sent.
        names: the arrays that the norm is taken over; None: all with floating point.
    """
    squares = 0.0
    for name in model if names is None else names:
        values = view_of(model[name])
        if values.dtype.kind == "f":
            squares += square_of(values.ravel("K"))
    return UPDATE * max(1.0, sqrt(squares))
