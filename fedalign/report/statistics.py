"""Means over seeds, and what they allow to be said about two arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan, sqrt

import numpy as np
from scipy.stats import t

CONFIDENCE = 0.95
UNKNOWN = "\N{EN DASH}"  # in a table


@dataclass(frozen=True)
class Difference:
    """The mean of differences between pairs of runs that share a seed.

    Attributes:
        mean: over the pairs.
        half_width: of the 95 % interval by Student's t; NaN for fewer than two pairs.
        pairs: how many.
    """

    mean: float
    half_width: float
    pairs: int

    @property
    def significant(self) -> bool:
        """Whether the interval leaves out 0."""
        return abs(self.mean) > self.half_width  # False for NaN

    def __str__(self) -> str:
        if isnan(self.half_width):
            return f"{self.mean:+.4f} ± {UNKNOWN}"
        verdict = "" if self.significant else " (n.s.)"
        return f"{self.mean:+.4f} ± {self.half_width:.4f}{verdict}"


def paired(ours: Mapping[int, float], theirs: Mapping[int, float]) -> Difference | None:
    """Return ours minus theirs on the seeds that both have; None if they share no seed."""
    differences = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
    if not differences:
        return None
    count, spread = len(differences), deviation(differences)
    quantile = t.ppf((1 + CONFIDENCE) / 2, count - 1) if count > 1 else nan
    return Difference(float(np.mean(differences)), float(quantile * spread / sqrt(count)), count)


def deviation(values: Sequence[float]) -> float:
    """Return the standard deviation of a sample (n - 1); NaN for a single value."""
    return float(np.std(values, ddof=1)) if len(values) > 1 else nan


def mean_std(values: Sequence[float], digits: int = 4) -> str:
    """Return `mean ± standard deviation`; a single value has none, an unknown one is a dash."""
    mean = float(np.mean(values)) if len(values) else nan
    if isnan(mean):
        return UNKNOWN
    spread = f" ± {deviation(values):.{digits}f}" if len(values) > 1 else ""
    return f"{mean:,.{digits}f}{spread}"
