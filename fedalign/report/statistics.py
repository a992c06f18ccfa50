"""Statistics over seeds: means, deviations, and paired differences between two arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan

import numpy as np
from scipy.stats import ttest_rel

CONFIDENCE = 0.95
UNKNOWN = "\N{EN DASH}"  # in a table


@dataclass(frozen=True)
class Difference:
    """The mean difference between pairs of runs that share a seed.

    Attributes:
        mean: over the pairs.
        half_width: of the 95 % confidence interval by Student's t; NaN for fewer than two pairs.
        pairs: number of pairs.
    """

    mean: float
    half_width: float
    pairs: int

    @property
    def significant(self) -> bool:
        """Whether the interval excludes 0."""
        return abs(self.mean) > self.half_width  # False for NaN

    def __str__(self) -> str:
        if isnan(self.half_width):
            return f"{self.mean:+.4f} ± {UNKNOWN}"
        verdict = "" if self.significant else " (n.s.)"
        return f"{self.mean:+.4f} ± {self.half_width:.4f}{verdict}"


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Difference | None:
    """Return ours minus theirs over the seeds that both have; None if they share no seed."""
    seeds = sorted(ours.keys() & theirs.keys())
    if not seeds:
        return None
    first, second = ([values[seed] for seed in seeds] for values in (ours, theirs))
    mean, half_width = float(np.mean(np.subtract(first, second))), nan
    if len(seeds) > 1:
        interval = ttest_rel(first, second).confidence_interval(CONFIDENCE)
        half_width = float(interval.high - interval.low) / 2
    return Difference(mean, half_width, len(seeds))


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
