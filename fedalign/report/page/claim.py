"""Say in sentences what runs show, and how far that can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import isnan

import numpy as np

from fedalign.errors import InputError
from fedalign.report.comparison import Arm, Comparison, compare
from fedalign.report.labels import label
from fedalign.report.reading import Run
from fedalign.report.statistics import Difference, mean_std
from fedalign.report.tables import Row
from fedalign.runs.tables import lower_is_better

USUAL_BASELINE, USUAL_METRIC = "fedavg", "test_accuracy"
BARRIER = "last_client_accuracy_barrier"
MAX_BARRIERS = 4  # arms in a sentence
DIGITS = 3
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Claim:
    """What the arms with one baseline show.

    Attributes:
        where: the settings that they share and others do not, such as `alpha 0.1`; may be empty.
        best: the arm with the best mean.
        value: its mean ± deviation, as text.
        seeds: over how many seeds.
        rival: the baseline, or the second best if the baseline is the best; None if it is alone.
        difference: of the best from the rival; None if they share no seed.
        comparisons: for how many p is corrected.
    """

    where: str
    best: str
    value: str
    seeds: int
    rival: str | None = None
    difference: Difference | None = None
    comparisons: int = 1

    @property
    def comparison(self) -> str:
        """Return how far the best arm is from its rival, with the interval."""
        if self.rival is None:
            return ""
        if self.difference is None:
            return f"; {self.rival} was run under other seeds, so the two cannot be paired"
        mean, half = self.difference.mean, self.difference.half_width
        text = f", {abs(mean):.{DIGITS}f} {'more' if mean >= 0 else 'less'} than {self.rival}"
        if abs(mean) < 0.5 * 10**-DIGITS:
            text = f", as much as {self.rival}"
        if isnan(half):
            return text
        return f"{text} (95 % interval {_signed(mean - half)} to {_signed(mean + half)})"

    @property
    def verdict(self) -> str:
        """Return whether the comparison can be relied on."""
        if self.rival is None or self.difference is None:
            return "One seed does not show how much chance there is." if self.seeds < 2 else ""
        if isnan(self.difference.half_width):
            return "They share one seed: whether the difference is chance cannot be said."
        p = self.difference.adjusted
        said = "p < 0.001" if p < 0.001 else f"p = {p:.2g}"
        if self.comparisons > 1:
            said += f" after Holm's correction for {self.comparisons} comparisons"
        return f"{'Significant' if self.difference.significant else 'Not significant'}: {said}."


def compared(
    runs: Sequence[Run], metric: str | None = None, baseline: str | None = None
) -> Comparison | None:
    """Return the comparison of a page; None if nothing was asked for and nothing can be compared.

    Args:
        runs: the runs.
        metric: see `compare`; None: test accuracy.
        baseline: see `compare`; None: FedAvg, or the first arm.

    Raises:
        InputError: there is no such metric or baseline.
    """
    of = metric or USUAL_METRIC
    if baseline is None:
        with suppress(InputError):
            return compare(runs, metric=of, baseline=USUAL_BASELINE)
    try:
        return compare(runs, metric=of, baseline=baseline)
    except InputError:
        if metric or baseline:
            raise
        return None


def claims(found: Comparison) -> list[Claim]:
    """Return a claim for the arms of each baseline, and for each arm that has none."""
    groups: dict[str, list[tuple[Arm, Difference | None]]] = {}
    for arm, base, difference in zip(found.arms, found.baselines, found.differences, strict=True):
        if arm.values:
            groups.setdefault(base or f"alone: {arm.label}", []).append((arm, difference))
    count = sum(d is not None and d.pairs > 1 for d in found.differences)
    sign = 1 if lower_is_better(found.metric) else -1
    ranked = {
        base: sorted(arms, key=lambda own: sign * own[0].mean) for base, arms in groups.items()
    }
    return [_claim(base, arms, len(groups) > 1, count) for base, arms in ranked.items()]


def barriers(rows: Sequence[Row]) -> str:
    """Return a sentence on the barrier between clients by arm; empty if it was not measured."""
    values = {row.arm: list(row.by_seed(BARRIER).values()) for row in rows}
    known = {arm: mean_std(v, DIGITS) for arm, v in values.items() if not isnan(np.mean(v))}
    if not 0 < len(known) <= MAX_BARRIERS:
        return ""
    by_arm = listed([f"{text} for {arm}" for arm, text in known.items()])
    return f"Between two clients' models, the accuracy barrier (0: none) is {by_arm}."


def listed(words: Sequence[str]) -> str:
    """Return words as `a, b and c`; with semicolons if one of them holds a comma."""
    if any("," in word for word in words):
        return "; ".join(words)
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def _claim(
    base: str, arms: Sequence[tuple[Arm, Difference | None]], several: bool, comparisons: int
) -> Claim:
    """Return what arms with one baseline show, best first; `several`: there are other baselines."""
    ranked = [arm for arm, _ in arms]
    best, by_arm = ranked[0], {arm.label: own for arm, own in arms}
    shared = _shared(ranked) if several else {}
    value = mean_std(list(best.values.values()), DIGITS)
    claim = Claim(label(shared), _name(best, shared), value, best.n)
    if len(ranked) == 1:
        return claim
    rival = next((arm for arm in ranked if arm.label == base), ranked[1])
    difference = by_arm[best.label]
    if rival is best:
        rival = ranked[1]
        difference = _turned(by_arm[rival.label])
    return replace(
        claim, rival=_name(rival, shared), difference=difference, comparisons=comparisons
    )


def _shared(arms: Sequence[Arm]) -> dict[str, object]:
    """Return the settings that all of several arms share."""
    first = arms[0].settings if len(arms) > 1 else {}
    return {
        key: value
        for key, value in first.items()
        if all(key in arm.settings and repr(arm.settings[key]) == repr(value) for arm in arms)
    }


def _name(arm: Arm, shared: dict[str, object]) -> str:
    own = {key: value for key, value in arm.settings.items() if key not in shared}
    return label(own) if shared and own else arm.label


def _turned(difference: Difference | None) -> Difference | None:
    return replace(difference, mean=-difference.mean) if difference else None


def _signed(value: float) -> str:
    return f"{value:.{DIGITS}f}".replace("-", MINUS)
