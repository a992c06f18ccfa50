"""Say in sentences what runs show, and how far that can be trusted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

import numpy as np

from fedalign.report.labels import label, varied
from fedalign.report.statistics import Difference, mean_std, paired
from fedalign.report.tables import Row

ALGORITHM = ("strategy.", "client.")  # settings in which arms may differ and still be compared
USUAL_BASELINE = "fedavg"
BARRIER = "last_client_accuracy_barrier"
DIGITS = 3
MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True)
class Claim:
    """What runs under one choice of the other settings show.

    Attributes:
        where: the settings in which other runs differ, such as `alpha 0.1`; may be empty.
        best: the arm with the highest accuracy.
        accuracy: its mean ± deviation, as text.
        seeds: over how many seeds.
        rival: the arm that it is compared with; None if it is alone.
        difference: from the rival, paired by seed; None if they share no seed.
        others: number of arms that it was chosen from.
    """

    where: str
    best: str
    accuracy: str
    seeds: int
    rival: str | None = None
    difference: Difference | None = None
    others: int = 0

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
        low, high = signed(mean - half), signed(mean + half)
        return f"{text} (95 % interval {low} to {high})"

    @property
    def verdict(self) -> str:
        """Return whether the comparison can be relied on."""
        if self.rival is None or self.difference is None:
            return "One seed does not show how much chance there is." if self.seeds < 2 else ""
        if isnan(self.difference.half_width):
            return "They share one seed: whether the difference is chance cannot be said."
        chosen = ", and the best of several looks better than it is" if self.others > 1 else ""
        if abs(self.difference.mean) > self.difference.half_width:
            return f"The interval excludes 0{chosen}."
        return f"Not significant: the interval contains 0{chosen}."


def claims(rows: Sequence[Row]) -> list[Claim]:
    """Return a claim for each choice of the settings that are not the algorithm's.

    Arms whose runs measured no test accuracy are passed over.
    """
    contexts: dict[str, list[tuple[str, Row]]] = {}
    measured = [row for row in rows if row.by_seed("accuracy") and not isnan(_accuracy(row))]
    for row, own in zip(measured, varied([row.runs[0].counted for row in measured]), strict=True):
        where = {key: value for key, value in own.items() if not key.startswith(ALGORITHM)}
        name = label({key: value for key, value in own.items() if key not in where})
        contexts.setdefault(label(where), []).append((name or row.arm, row))
    return [_claim(where, arms) for where, arms in contexts.items()]


def barriers(rows: Sequence[Row]) -> str:
    """Return a sentence on the barrier between clients by arm; empty if it was not measured."""
    values = {row.arm: list(row.by_seed(BARRIER).values()) for row in rows}
    known = {arm: mean_std(v, DIGITS) for arm, v in values.items() if not isnan(np.mean(v))}
    parts = [f"{text} for {arm}" for arm, text in list(known.items())[:4]]
    if not parts or len(known) > len(parts):
        return ""
    middle = "Between two clients' models, the accuracy barrier (0: none) is "
    return middle + listed(parts) + "."


def signed(value: float) -> str:
    """Return a number with a proper minus sign."""
    return f"{value:.{DIGITS}f}".replace("-", MINUS)


def listed(words: Sequence[str]) -> str:
    """Return words as `a, b and c`; with semicolons if one of them holds a comma."""
    if any("," in word for word in words):
        return "; ".join(words)
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]])) if words else ""


def _claim(where: str, arms: Sequence[tuple[str, Row]]) -> Claim:
    best_name, best = max(arms, key=lambda arm: _accuracy(arm[1]))
    values = best.by_seed("accuracy")
    claim: dict[str, Any] = {"where": where, "best": best_name, "seeds": len(values)}
    claim["accuracy"] = mean_std(list(values.values()), DIGITS)
    others = [arm for arm in arms if arm[1] is not best]
    if not others:
        return Claim(**claim)
    rival_name, rival = max(others, key=lambda arm: (_is_baseline(arm[1]), _accuracy(arm[1])))
    difference = paired(values, rival.by_seed("accuracy"))
    return Claim(**claim, rival=rival_name, difference=difference, others=len(others))


def _accuracy(row: Row) -> float:
    return float(np.mean(list(row.by_seed("accuracy").values())))


def _is_baseline(row: Row) -> bool:
    settings: Mapping[str, Any] = row.runs[0].settings
    return settings.get("strategy.name") == USUAL_BASELINE
