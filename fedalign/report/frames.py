"""A comparison as a table of numbers: a row an arm, or a row a run."""

from __future__ import annotations

from math import nan
from typing import Any

import numpy as np
import pandas as pd

from fedalign.report.comparison import Arm, Comparison
from fedalign.report.measures import reached
from fedalign.report.statistics import Difference, deviation


def wide(found: Comparison, target: float | None = None) -> pd.DataFrame:
    """Return a row an arm: mean, deviation, difference from the baseline, way to the target.

    `low95` and `high95` are the ends of the 95 % interval, `p_holm` is corrected.
    """
    rows = []
    for arm, base, change, best in zip(
        found.arms, found.baselines, found.differences, found.best, strict=True
    ):
        row = _common(found, arm) | {"n": arm.n, "mean": arm.mean, "std": arm.std, "best": best}
        row |= {"baseline": base} | _changed(change)
        rows.append(row | (_way(found, arm, target) if target is not None else {}))
    return pd.DataFrame(rows)


def long(found: Comparison, target: float | None = None) -> pd.DataFrame:
    """Return a row a run; one whose value is left out has none."""
    rows = []
    for arm in found.arms:
        for run in arm.runs:
            seed = run.settings["seed"]
            row = _common(found, arm) | {"seed": seed, "value": arm.values.get(seed, nan)}
            if target is not None:
                way = reached(run, found.metric, target)
                row |= {"target": target, "rounds_to_target": way.round if way else nan}
                row |= {"bytes_to_target": way.bytes if way else nan}
            rows.append(row | {"run": str(run.path)})
    return pd.DataFrame(rows)


def _common(found: Comparison, arm: Arm) -> dict[str, Any]:
    chosen = {key: arm.settings.get(key) for key in found.by}
    return {"arm": arm.label, **chosen, "metric": found.metric, "at": str(found.at)}


def _changed(change: Difference | None) -> dict[str, Any]:
    if change is None:
        return dict.fromkeys(("difference", "low95", "high95", "p", "p_holm"), nan) | {"pairs": 0}
    low, high = change.mean - change.half_width, change.mean + change.half_width
    own = {"difference": change.mean, "low95": low, "high95": high}
    return own | {"p": change.p, "p_holm": change.adjusted, "pairs": change.pairs}


def _way(found: Comparison, arm: Arm, target: float) -> dict[str, Any]:
    ways = arm.reaching(found.metric, target)
    numbers: dict[str, Any] = {"target": target, "reached": len(ways), "of": len(arm.runs)}
    rounds, traffic = [float(way.round) for way in ways], [way.bytes for way in ways]
    for name, values in (("rounds_to_target", rounds), ("bytes_to_target", traffic)):
        mean = float(np.mean(values)) if values else nan
        numbers |= {name: mean, f"{name}_std": deviation(values)}
    return numbers
