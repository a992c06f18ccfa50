"""The tables of a page: cells as text, each with the number by which its column is sorted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import isnan, nan
from typing import Any

import numpy as np
import pandas as pd

from fedalign.report import soups, tasks
from fedalign.report.comparison import Comparison
from fedalign.report.reading import Run
from fedalign.report.statistics import UNKNOWN, Difference, mean_std
from fedalign.report.tables import COLUMNS, Row, measured

Of = Callable[[Run], float]
MAX_CLIENTS = 100  # whose own options are shown
LARGE = 1000  # costs from here on are shown in whole units


@dataclass(frozen=True)
class Cell:
    """A cell's text, and what its column is sorted by."""

    text: str
    key: str | float


NO_DIFFERENCE = [Cell(UNKNOWN, ""), Cell(UNKNOWN, "")]
PAIRED = (
    " Differences: paired by seed, ± half the 95 % interval; p corrected for their number (Holm)."
)


@dataclass(frozen=True)
class Table:
    """A table of a page; the first cell of a line names it."""

    caption: str
    headings: Sequence[str]
    lines: Sequence[Sequence[Cell]]


def of_arms(rows: Sequence[Row], comparison: Comparison | None) -> Table:
    """Return mean ± deviation over seeds of what was measured, a line an arm.

    Args:
        rows: the arms.
        comparison: of them; None if they cannot be compared.
    """
    names = [name for name in measured(rows) if COLUMNS[name].usual]
    shown = [COLUMNS[name] for name in names if not COLUMNS[name].megabytes]
    beside = _beside(comparison) if comparison else {}
    headings, lines = [column.heading for column in shown], []
    for row in rows:
        means = [_mean([column.of(run) for run in row.runs]) for column in shown]
        if beside:
            means[1:1] = beside.get(row.arm, NO_DIFFERENCE)
        lines.append([Cell(row.arm, row.arm), Cell(str(len(row.runs)), len(row.runs)), *means])
    if comparison and beside:  # accuracy comes first
        of = comparison.metric.removeprefix("test_").replace("_", " ")
        headings[1:1] = [f"{of} minus {comparison.baseline}'s", "p"]
    caption = f"Mean ± sample standard deviation over seeds.{PAIRED if beside else ''}"
    return Table(caption, ["arm", "seeds", *headings], lines)


def _beside(comparison: Comparison) -> dict[str, list[Cell]]:
    """Return difference and p of each arm; nothing if no arm has a difference."""
    pairs = zip(comparison.arms, comparison.differences, strict=True)
    return {
        arm.label: [Cell(_difference(own), own.mean), _mean([own.adjusted], "{:.2g}")]
        for arm, own in pairs
        if own is not None
    }


def _difference(own: Difference) -> str:
    text = f"{own.mean:+.4f} ± {own.half_width:.4f}"
    return text.replace("-", "\N{MINUS SIGN}").replace("nan", UNKNOWN)


def of_runs(rows: Sequence[Row]) -> Table:
    """Return what became of each run, a line a run."""
    headings = ["run", "arm", "seed", "rounds", "last 5", "best", "in round", "last"]
    lines = [_of_run(row.arm, run) for row in rows for run in row.runs]
    return Table("Test accuracy of each run's global model.", headings, lines)


def of_fusions(rows: Sequence[Row]) -> Table:
    """Return the accuracies of ingredients and fusions, a line each; no lines without any."""
    found = soups.lines(rows)
    shown, changed = soups.columns(found), soups.changed(found)
    lines = [
        [
            Cell(own.name, own.name),
            Cell(own.arm, own.arm),
            *(_mean(list(own.values[key].values())) for key in shown),
            *(_change(own.changes.get(key)) for key in changed),
        ]
        for own in found
    ]
    headings = ["model", "arm", *shown.values(), *changed.values()]
    return Table(soups.EXPLAINED, headings, lines)


def _change(difference: Difference | None) -> Cell:
    return Cell(_difference(difference), difference.mean) if difference else NO_DIFFERENCE[0]


def of_tasks(rows: Sequence[Row]) -> Table:
    """Return accuracies on evaluation tasks, a line each and arm; no lines without any."""
    found = [
        [
            Cell(own.task, own.task),
            *(Cell(word, word) for word in (own.arm, "seen" if own.seen else "unseen", own.way)),
            *(_mean(list(values)) for values in (own.start, own.last)),
        ]
        for own in tasks.lines(rows)
    ]
    headings = ["task", "arm", "clients have", "way", "at the start", "last round"]
    return Table(tasks.EXPLAINED, headings, found)


def of_cost(rows: Sequence[Row]) -> Table:
    """Return means over seeds of time, bytes, memory and steps, a line an arm."""
    costs = {heading: of for heading, of in COSTS.items() if _is_known(rows, of)}
    shown = costs.values()
    lines = [
        [Cell(row.arm, row.arm), *(_cost([of(run) for run in row.runs]) for of in shown)]
        for row in rows
    ]
    return Table("Mean over seeds; MB are 10⁶ bytes.", ["arm", *costs], lines)


def of_clients(run: Run) -> Table | None:
    """Return the options in which clients differ, a line a client; None if there are none."""
    own = run.client_settings
    if len(own.columns) < 2:
        return None
    shown = own.head(MAX_CLIENTS).astype(object).to_numpy().tolist()
    lines = [[Cell(str(value), _key(value)) for value in line] for line in shown]
    more = f", the first {MAX_CLIENTS} of {len(own)}" if len(own) > MAX_CLIENTS else ""
    return Table(f"Options of each client of {run.path.name}{more}.", list(map(str, own)), lines)


def _key(value: Any) -> str | float:
    return float(value) if isinstance(value, int | float) else str(value)


def _total(column: str, unit: float = 1) -> Of:
    return lambda run: float(run.metrics[column].sum() / unit) if column in run.metrics else nan


def _mean_of(column: str) -> Of:
    return lambda run: float(run.metrics[column].mean()) if column in run.metrics else nan


def _peak(column: str, unit: float) -> Of:
    return lambda run: float(run.metrics[column].max() / unit) if column in run.metrics else nan


COSTS: dict[str, Of] = {
    "seconds a round": _mean_of("seconds"),
    "seconds in all": _total("seconds"),
    "CPU seconds": _total("cpu_seconds"),
    "peak memory, MB": _peak("peak_memory", 1e6),
    "MB down": _total("bytes_down", 1e6),
    "MB up": _total("bytes_up", 1e6),
    "client steps": _total("client_steps"),
    "replies dropped": _total("dropped"),
}


def _of_run(arm: str, run: Run) -> list[Cell]:
    rounds = int(run.metrics["round"].max()) if len(run.metrics) else 0
    progress = str(rounds) + (f" ({run.unfinished.partition(',')[0]})" if run.unfinished else "")
    by_round = run.metrics.set_index("round")
    known = by_round.get("test_accuracy", pd.Series(dtype=float)).dropna()
    best = known.index[int(known.to_numpy().argmax())] if len(known) else nan
    return [
        Cell(run.path.name, run.path.name),
        Cell(arm, arm),
        Cell(str(run.settings["seed"]), run.settings["seed"]),
        Cell(progress, rounds),
        _mean([COLUMNS["accuracy"].of(run)]),
        _mean([known.max()]),
        _mean([float(best)], "{:.0f}"),
        _mean(list(known.tail(1))),
    ]


def _mean(values: Sequence[float], form: str | None = None) -> Cell:
    mean = float(np.mean(values)) if len(values) else nan
    if isnan(mean):
        return Cell(UNKNOWN, "")
    return Cell(form.format(mean) if form else mean_std(values), mean)


def _cost(values: Sequence[float]) -> Cell:
    large = np.mean(values) >= LARGE
    return _mean(values, "{:,.0f}" if large else "{:.4g}")


def _is_known(rows: Sequence[Row], of: Of) -> bool:
    return not all(isnan(of(run)) for row in rows for run in row.runs)
