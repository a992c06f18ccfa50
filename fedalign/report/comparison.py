"""Compare runs: arms by settings, means over seeds, and corrected paired differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from math import isfinite, nan
from typing import TYPE_CHECKING

import numpy as np

from fedalign.errors import InputError, nearest
from fedalign.report.baselines import baselines
from fedalign.report.labels import Settings, beside, common, deciding, ordered
from fedalign.report.measures import TRAFFIC, At, Reached, reached
from fedalign.report.notes import chosen, notes
from fedalign.report.reading import Run
from fedalign.report.statistics import Difference, corrected, deviation, paired
from fedalign.runs.tables import lower_is_better
from fedalign.settings.builtin import KINDS

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Arm:
    """Runs that have the same settings in a comparison, one a seed.

    Attributes:
        label: names the arm in tables and figures.
        settings: under dotted keys, those by which runs are compared; one that a part does not have
            is left out.
        runs: one a seed.
        values: by seed; runs without a finite value are left out.
    """

    label: str
    settings: Settings
    runs: Sequence[Run]
    values: Mapping[int, float]

    @property
    def n(self) -> int:
        """The number of seeds with a value."""
        return len(self.values)

    @property
    def mean(self) -> float:
        """The mean over seeds; NaN without one."""
        return float(np.mean(list(self.values.values()))) if self.values else nan

    @property
    def std(self) -> float:
        """The sample standard deviation over seeds (divisor n - 1); NaN for fewer than two."""
        return deviation(list(self.values.values()))

    def reaching(self, metric: str, target: float) -> list[Reached]:
        """Return when each run reached a target, of those that did."""
        found = [reached(run, metric, target) for run in self.runs]
        return [way for way in found if way]


@dataclass(frozen=True)
class Comparison:
    """Arms, and how each differs from its baseline.

    Attributes:
        metric: a column of `metrics.csv`, or `bytes`.
        at: the rounds that count.
        by: dotted keys of the settings that make the arms.
        arms: those with the same baseline one after another.
        baseline: what arms are compared with: an arm, or one of its settings.
        baselines: for each arm the label of the one that it is compared with, its own for a
            baseline; None if it has none.
        differences: for each arm, paired by seed and corrected together; None for a baseline, and
            without shared seeds.
        split: settings in which runs of one arm differed, by which arms were then split.
        notes: lines on what else differs, and on runs that are left out or have no value.
    """

    metric: str
    at: At
    by: Sequence[str]
    arms: Sequence[Arm]
    baseline: str
    baselines: Sequence[str | None]
    differences: Sequence[Difference | None]
    split: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def best(self) -> list[bool]:
        """For each arm, whether its mean is the best among those with the same baseline."""
        sign = -1 if lower_is_better(self.metric) else 1
        groups: dict[str | None, list[float]] = {}
        for arm, group in zip(self.arms, self.baselines, strict=True):
            groups.setdefault(group, []).extend([sign * arm.mean] if arm.values else [])
        return [
            group is not None and len(groups[group]) > 1 and sign * arm.mean == max(groups[group])
            for arm, group in zip(self.arms, self.baselines, strict=True)
        ]

    def frame(self, each_run: bool = False) -> pd.DataFrame:
        """Return the numbers in a row an arm, or in a row a run."""
        from fedalign.report import frames

        return frames.long(self) if each_run else frames.wide(self)

    def text(self, form: str = "text") -> str:
        """Return a table with its notes: `text`, `markdown` or `latex`, or without: `csv`."""
        from fedalign.report.formats import Shown

        return Shown(self).text(form)

    def _repr_html_(self) -> str:
        lines = "".join(f"<li>{escape(line)}</li>" for line in self.notes)
        return f"{self.frame().to_html(index=False)}<ul>{lines}</ul>"


def compare(
    runs: Sequence[Run],
    by: str | Sequence[str] = (),
    metric: str = "test_accuracy",
    at: str = "last5",
    baseline: str | None = None,
) -> Comparison:
    """Return a comparison of finished runs.

    Args:
        runs: as read from their folders.
        by: settings that make the arms, such as `strategy` or `partition.alpha`; none: those in
            which runs differ, except the seed and what the others decide.
        metric: a column of `metrics.csv`, or `bytes` (down and up).
        at: `last5` (or another number), `best`, `final`, `round=N`, `mean`, `sum` or `area`.
        baseline: label of an arm, or one of its settings, such as `fedavg`; None: the first arm.
            Each arm is compared with the baseline that is otherwise set like it.

    Raises:
        InputError: a name is unknown, no run has finished, or none has a value.
    """
    used, rounds = [run for run in runs if not run.unfinished], At.read(at)
    if not used:
        raise InputError(f"none of these {len(runs)} runs has finished")
    _check_metric(used, metric)
    asked = _keys(used, [by] if isinstance(by, str) else by)
    split = _mixed(used, asked)
    keys = [*asked, *split]
    arms = _arms(used, keys, metric, rounds)
    if not any(arm.values for arm in arms):
        raise InputError(
            f"at: no run has a value of {metric!r} ({rounds.described(metric)}){_others(used)}"
        )
    name, against = baselines({arm.label: arm.settings for arm in arms}, keys, baseline)
    arms = sorted(arms, key=lambda arm: _place(arm, arms, against))
    values = {arm.label: arm.values for arm in arms}
    others = [against[arm.label] for arm in arms]
    differences = corrected(
        [
            paired(arm.values, values[other]) if other and other != arm.label else None
            for arm, other in zip(arms, others, strict=True)
        ]
    )
    found = Comparison(metric, rounds, keys, arms, name, others, differences, split)
    return replace(found, notes=notes(runs, found))


def _others(runs: Sequence[Run]) -> str:
    """Return which other accuracies runs have measured, as the end of an error."""
    measured = [run.metrics.dropna(axis="columns", how="all") for run in runs]
    found = dict.fromkeys(str(name) for own in measured for name in own if "accuracy" in str(name))
    return f"; metric: {', '.join(found)}" if found else ""


def _check_metric(runs: Sequence[Run], metric: str) -> None:
    columns = dict.fromkeys(str(column) for run in runs for column in run.metrics)
    known = [*(column for column in columns if column != "round"), TRAFFIC]
    if metric not in known:
        raise InputError(f"metric: {metric!r} was not measured{nearest(metric, known)}")


def _keys(runs: Sequence[Run], by: Sequence[str]) -> list[str]:
    """Return the full keys of the settings in `by`; without it, of those in which runs differ."""
    if not by:
        return deciding([run.counted for run in runs])
    known = sorted({key for run in runs for key in run.settings})
    keys = [f"{key}.name" if key in KINDS else key for key in by]
    for given, key in zip(by, keys, strict=True):
        if key not in known:
            raise InputError(f"by: {given!r} is a setting of no run{nearest(key, known)}")
    return list(dict.fromkeys(keys))


def _mixed(runs: Sequence[Run], keys: Sequence[str]) -> list[str]:
    """Return further settings, but for the seed, in which runs differ that have the same `keys`."""
    grouped: dict[str, list[Settings]] = {}
    for run in runs:
        grouped.setdefault(repr(chosen(run, keys)), []).append(run.counted)
    return list(dict.fromkeys(key for own in grouped.values() for key in deciding(own)))


def _arms(runs: Sequence[Run], keys: Sequence[str], metric: str, at: At) -> list[Arm]:
    """Return arms in the order of their settings; of runs with the same seed, the first counts."""
    grouped: dict[str, dict[int, Run]] = {}
    for run in runs:
        grouped.setdefault(repr(chosen(run, keys)), {}).setdefault(run.settings["seed"], run)
    own_settings = {key: chosen(next(iter(own.values())), keys) for key, own in grouped.items()}
    shared, arms = common(list(own_settings.values())), {}
    for key in sorted(grouped, key=lambda key: [ordered(own_settings[key].get(k)) for k in keys]):
        own = [grouped[key][seed] for seed in sorted(grouped[key])]
        name = beside(own_settings[key], shared) or str(own[0].settings["name"])
        name += f" [{own[0].path.name}]" if name in arms else ""
        values = {run.settings["seed"]: at.of(run, metric) for run in own}
        finite = {seed: value for seed, value in values.items() if isfinite(value)}
        arms[name] = Arm(name, own_settings[key], own, finite)
    return list(arms.values())


def _place(arm: Arm, arms: Sequence[Arm], against: Mapping[str, str | None]) -> tuple[int, bool]:
    """Return a sort key: arms with one baseline stand together, it first; those without, last."""
    labels = [other.label for other in arms]
    other = against[arm.label]
    return (len(labels) if other is None else labels.index(other), other != arm.label)
