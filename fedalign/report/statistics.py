"""Statistics over seeds: means, deviations, and paired differences between two arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import isfinite, isnan, nan

import numpy as np
from scipy.stats import t as student

CONFIDENCE = 0.95
UNKNOWN = "\N{EN DASH}"  # in a table


@dataclass(frozen=True)
class Difference:
    """The mean difference between pairs of runs that share a seed.

    Attributes:
        mean: over the pairs.
        half_width: of the 95 % confidence interval by Student's t; NaN for fewer than two pairs.
        pairs: number of pairs.
        p: of the paired t test, two-sided; NaN for fewer than two pairs.
        adjusted: p by Holm's correction among all differences of a table, see `corrected`.
    """

    mean: float
    half_width: float
    pairs: int
    p: float = nan
    adjusted: float = nan

    @property
    def significant(self) -> bool:
        """Whether the corrected p is below 0.05."""
        return self.adjusted < 1 - CONFIDENCE  # False for NaN

    def __str__(self) -> str:
        if isnan(self.half_width):
            return f"{self.mean:+.4f} ± {UNKNOWN}"
        verdict = "" if self.significant else " (n.s.)"
        return f"{self.mean:+.4f} ± {self.half_width:.4f}{verdict}"


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Difference | None:
    """Return ours minus theirs over the seeds at which both are finite; None if there is none.

    It stands alone: `corrected` adjusts the p of several.
    """
    both = sorted(ours.keys() & theirs.keys())
    between = np.array([d for seed in both if isfinite(d := ours[seed] - theirs[seed])])
    count = len(between)
    if not count:
        return None
    mean, half_width, p = float(between.mean()), nan, nan
    if count > 1:
        error = float(between.std(ddof=1)) / count**0.5
        half_width = error * float(student.ppf((1 + CONFIDENCE) / 2, count - 1))
        p = 2 * float(student.sf(abs(mean) / error, count - 1)) if error else float(mean == 0)
    return Difference(mean, half_width, count, p, p)


def corrected(differences: Sequence[Difference | None]) -> list[Difference | None]:
    """Return differences with p adjusted for their number by Holm's step-down method.

    Those without a p, for want of pairs, are not counted. (Holm 1979, Scand. J. Statistics 6.)
    """
    known = [d.p for d in differences if d and not isnan(d.p)]
    adjusted = iter(holm(known))
    return [replace(d, adjusted=next(adjusted)) if d and not isnan(d.p) else d for d in differences]


def holm(ps: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p of each: the k-th smallest of m times m - k + 1, never falling."""
    order = np.argsort(ps)
    scaled = np.array(ps)[order] * np.arange(len(ps), 0, -1)
    adjusted = np.empty(len(ps))
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1)
    return adjusted.tolist()


def deviation(values: Sequence[float]) -> float:
    """Return the sample standard deviation (divisor n - 1); NaN for a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else nan


def mean_std(values: Sequence[float], digits: int = 4) -> str:
    """Return `mean ± sample standard deviation` as text.

    A single value is shown without a deviation; no values, or a NaN mean, as a dash.
    """
    mean = float(np.mean(values)) if len(values) else nan
    if isnan(mean):
        return UNKNOWN
    spread = f" ± {deviation(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean:,.{digits}f}{spread}"
