"""How good ingredients and fusions are, and how each fusion differs from the best ingredient."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import pandas as pd

from fedalign.report.reading import Run
from fedalign.report.statistics import UNKNOWN, Difference, corrected, mean_std, paired
from fedalign.report.tables import Row, markdown
from fedalign.server.fusing import CLIENT

WIDTH = 100  # characters of a line of text
MAX_SHOWN = 12  # ingredients with a line each
MEAN, HIGHEST, BEST = "mean ingredient", "highest ingredient", "best"
ACCURACIES = {
    "test_accuracy": "test accuracy",
    "corrupted_accuracy": "corrupted accuracy",
    "held_out_accuracy": "held-out accuracy",
}
CHANGED = ("test_accuracy", "corrupted_accuracy")
EXPLAINED = (
    "Mean ± sample standard deviation over seeds, in the last round in which fusions were "
    "measured. The highest ingredient of each column is known only in hindsight; 'best' is the one "
    "that held-out examples chose. Differences are paired by seed, ± half the "
    "95 % interval; n.s.: p is 0.05 or more after Holm's correction for their number."
)


@dataclass(frozen=True)
class Line:
    """An ingredient, or a fusion.

    Attributes:
        arm: whose it is.
        name: `client 3`, `mean ingredient`, `highest ingredient`, or that of a fusion.
        values: accuracies by column of `fusions.csv` and by seed.
        changes: of a fusion's accuracies from those of the best ingredient, by column.
    """

    arm: str
    name: str
    values: Mapping[str, Mapping[int, float]]
    changes: Mapping[str, Difference] = field(default_factory=dict)

    def cell(self, column: str) -> str:
        """Return mean and deviation of an accuracy as text."""
        return mean_std(list(self.values[column].values()))


def last(run: Run) -> pd.DataFrame:
    """Return the rows of `fusions.csv` of the last round that has some, by name."""
    table = run.fusions
    rows: pd.DataFrame = table[table["round"] == table["round"].max()]
    return rows.set_index("fusion")


def is_ingredient(table: pd.DataFrame) -> pd.Series[bool]:
    """Return which rows are ingredients."""
    return table.index.to_series().str.startswith(CLIENT)


def lines(rows: Sequence[Row]) -> list[Line]:
    """Return the ingredients and fusions of all arms that have some."""
    found = [line for row in rows for line in _of_arm(row)]
    base = reference(found)
    theirs = {line.arm: line.values for line in found if line.name == base}
    fused = [line for line in found if not _is_reference(line.name, base)]
    pairs = [(line, key) for key in CHANGED for line in fused if line.values[key]]
    differences = corrected(
        [paired(line.values[key], theirs[line.arm][key]) for line, key in pairs]
    )
    changes: dict[tuple[str, str], dict[str, Difference]] = {}
    for (line, key), difference in zip(pairs, differences, strict=True):
        if difference is not None:
            changes.setdefault((line.arm, line.name), {})[key] = difference
    return [replace(line, changes=changes.get((line.arm, line.name), {})) for line in found]


def _is_reference(name: str, base: str) -> bool:
    return name in (base, MEAN, HIGHEST) or name.startswith(CLIENT)


def reference(found: Sequence[Line]) -> str:
    """Return what fusions are compared with: what held-out examples chose, if all arms have it."""
    arms = {line.arm for line in found if line.name == BEST}
    return BEST if arms == {line.arm for line in found} else HIGHEST


def columns(found: Sequence[Line]) -> dict[str, str]:
    """Return the heading of each accuracy that was measured."""
    return {key: told for key, told in ACCURACIES.items() if any(own.values[key] for own in found)}


def changed(found: Sequence[Line]) -> dict[str, str]:
    """Return the heading of each accuracy of which there are differences."""
    known = [key for key in CHANGED if any(key in line.changes for line in found)]
    return {key: f"{ACCURACIES[key]} minus {reference(found)}" for key in known}


def describe(rows: Sequence[Row]) -> str:
    """Return a Markdown table of ingredients and fusions; "" if none were measured."""
    found = lines(rows)
    if not found:
        return ""
    cells = {"run": [line.arm for line in found]} if len({line.arm for line in found}) > 1 else {}
    cells["model"] = [line.name for line in found]
    for key, heading in columns(found).items():
        cells[heading] = [line.cell(key) for line in found]
    for key, heading in changed(found).items():
        cells[heading] = [str(line.changes.get(key, UNKNOWN)) for line in found]
    return f"{markdown(cells)}\n{textwrap.fill(EXPLAINED, WIDTH)}"


def _of_arm(row: Row) -> list[Line]:
    tables = {run.settings["seed"]: last(run) for run in row.runs if not run.fusions.empty}
    apart = {seed: table[is_ingredient(table)] for seed, table in tables.items()}
    clients = sorted(
        {int(name.removeprefix(CLIENT)) for own in apart.values() for name in own.index}
    )
    shown = clients if len(clients) <= MAX_SHOWN else []
    found = [_line(row.arm, name, tables) for name in (f"{CLIENT}{k}" for k in shown)]
    if tables:
        found += [_summary(row.arm, MEAN, apart, pd.Series.mean)]
        found += [_summary(row.arm, HIGHEST, apart, pd.Series.max)]
    names = dict.fromkeys(n for own in tables.values() for n in own.index[~is_ingredient(own)])
    return found + [_line(row.arm, name, tables) for name in names]


def _line(arm: str, name: str, tables: Mapping[int, pd.DataFrame]) -> Line:
    return _summary(arm, name, {seed: own.loc[own.index == name] for seed, own in tables.items()})


def _summary(
    arm: str,
    name: str,
    tables: Mapping[int, pd.DataFrame],
    of: Callable[[pd.Series[float]], float] = pd.Series.mean,
) -> Line:
    """Return a line that makes one number of each column of the tables."""
    values = {
        key: {s: float(of(own[key])) for s, own in tables.items() if key in own and len(own)}
        for key in ACCURACIES
    }
    return Line(arm, name, values)
