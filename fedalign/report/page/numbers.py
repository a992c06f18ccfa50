"""Make numbers small enough for a page: fewer digits, fewer rounds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import TypeVar

import numpy as np

from fedalign.report.reading import Run

T = TypeVar("T")
Number = int | float | None
DIGITS = 6  # significant ones


@dataclass(frozen=True)
class Budget:
    """How much a page keeps of each of so many runs, so that one of 20 runs is below 5 MB.

    Attributes:
        runs: number of runs.
    """

    runs: int

    @property
    def points(self) -> int:
        """Rounds of a metric."""
        return self._share(300, 6_000)

    @property
    def lines(self) -> int:
        """Rounds of lines between models."""
        return self._share(40, 800)

    @property
    def planes(self) -> int:
        """Rounds of planes."""
        return self._share(5, 100)

    @property
    def cells(self) -> int:
        """Cells of a map of clients and rounds."""
        return self._share(6_000, 50_000)

    def _share(self, most: int, of_all: int) -> int:
        return max(2, min(most, of_all // max(1, self.runs)))


def rounded(values: Iterable[float], digits: int = DIGITS) -> list[Number]:
    """Return values as JSON has them: whole numbers exactly, NaN and infinities as None."""
    return [_rounded(float(value), digits) for value in values]


def _rounded(value: float, digits: int) -> Number:
    if not isfinite(value):
        return None
    return int(value) if value.is_integer() else float(f"{value:.{digits}g}")


def spread(values: Sequence[T], most: int) -> list[T]:
    """Return at most so many of the values, evenly spaced, the first and the last among them."""
    if len(values) <= most:
        return list(values)
    return [values[i] for i in np.linspace(0, len(values) - 1, most).round().astype(int)]


def rounds_shown(runs: Sequence[Run]) -> set[int]:
    """Return the rounds of which a page keeps the metrics, the same ones of every run.

    A metric that is measured in few rounds keeps as many of them as one measured in all. The last
    round of each run is kept.
    """
    most = Budget(len(runs)).points
    measured: dict[str, set[int]] = {}
    for run in runs:
        for column in run.metrics:
            rounds = run.metrics.loc[run.metrics[column].notna(), "round"]
            measured.setdefault(str(column), set()).update(map(int, rounds))
    distinct = {tuple(sorted(rounds)) for rounds in measured.values()}
    shown = {number for rounds in distinct for number in spread(rounds, most)}
    return shown | {int(run.metrics["round"].max()) for run in runs if len(run.metrics)}
