"""One number of a run, from its `metrics.csv`: a metric at some rounds, or the way to a target."""

from __future__ import annotations

import re
from dataclasses import dataclass
from math import nan

import pandas as pd
from scipy.integrate import trapezoid

from fedalign.errors import InputError
from fedalign.report.reading import Run
from fedalign.runs.tables import lower_is_better

TRAFFIC = "bytes"  # a metric that is no column: `bytes_down` + `bytes_up`
AT = ("lastN", "best", "final", "round=N", "mean", "sum", "area")


def series(run: Run, metric: str) -> pd.Series[float]:
    """Return a metric by round; NaN where it was not measured, empty if it never is."""
    rounds = run.metrics.set_index("round")
    if metric == TRAFFIC and {"bytes_down", "bytes_up"} <= set(rounds):
        return rounds["bytes_down"] + rounds["bytes_up"]
    return rounds[metric] if metric in rounds else pd.Series(dtype=float)


@dataclass(frozen=True)
class At:
    """The rounds of a run that are made into one number, and how.

    Attributes:
        kind: one of `AT`, without its number.
        number: of rounds for `last`, of the round for `round`.
    """

    kind: str
    number: int = 0

    @staticmethod
    def read(text: str) -> At:
        """Return what a text such as `last5` or `round=10` says."""
        if found := re.fullmatch(r"(last|round=)([1-9]\d*)", text):
            return At(found[1].rstrip("="), int(found[2]))
        if text in AT and "N" not in text:
            return At(text)
        raise InputError(f"at: {text!r} must be one of {', '.join(AT)}, such as last5 or round=10")

    def __str__(self) -> str:
        return f"{self.kind}{'=' * (self.kind == 'round')}{self.number or ''}"

    def of(self, run: Run, metric: str) -> float:
        """Return the number; NaN if no round counts. Rounds without the metric are skipped."""
        values = self.rounds(series(run, metric)).dropna()
        if values.empty:
            return nan
        if self.kind == "best":
            return float(values.min() if lower_is_better(metric) else values.max())
        if self.kind == "area":
            return _height(values)
        return float(values.sum() if self.kind == "sum" else values.mean())

    def rounds(self, values: pd.Series[float]) -> pd.Series[float]:
        """Return the values in the rounds that count, measured or not."""
        if self.kind == "round":
            return values[values.index == self.number]
        tail = {"last": self.number, "final": 1}.get(self.kind, len(values))
        return values.tail(tail)

    def described(self, metric: str) -> str:
        """Return in words what is taken of each run."""
        best = "lowest" if lower_is_better(metric) else "highest"
        return {
            "last": f"mean over the last {self.number} rounds",
            "best": f"{best} of all rounds",
            "final": "last round",
            "round": f"round {self.number}",
            "mean": "mean over all rounds",
            "sum": "sum over all rounds",
            "area": "mean height of the curve over rounds (area under it by the trapezoidal rule, "
            "over its length)",
        }[self.kind]


def _height(values: pd.Series[float]) -> float:
    """Return the mean height of the polygon through the points."""
    rounds = values.index.to_numpy(float)
    if len(values) == 1:
        return float(values.iloc[0])
    return float(trapezoid(values, rounds) / (rounds[-1] - rounds[0]))


@dataclass(frozen=True)
class Reached:
    """When a run first reached a target.

    Attributes:
        round: the first round in which the metric is as good as the target, or better.
        bytes: sent and received until then, by all clients; NaN if they were not counted.
    """

    round: int
    bytes: float


def reached(run: Run, metric: str, target: float) -> Reached | None:
    """Return when a run reached the target; None if it did not."""
    values = series(run, metric)
    good = values <= target if lower_is_better(metric) else values >= target
    if not good.any():
        return None
    first, traffic = int(values.index.to_numpy(int)[good][0]), series(run, TRAFFIC)
    return Reached(first, float(traffic[:first].sum()) if len(traffic) else nan)
