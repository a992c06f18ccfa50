"""Compare runs: group them by seed, and tabulate them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan
from typing import Any

import pandas as pd

from fedalign.report.labels import COMMON, Settings, beside, common, label, short, telling
from fedalign.report.measures import At
from fedalign.report.notes import twin_of
from fedalign.report.reading import Run
from fedalign.report.statistics import UNKNOWN, Difference, corrected, mean_std, paired
from fedalign.settings.builtin import BUILTIN


@dataclass(frozen=True)
class Row:
    """Runs of one arm that differ only in their seed, under one choice of the varied settings."""

    arm: str
    runs: Sequence[Run]
    varied: Mapping[str, Any] = field(default_factory=dict)

    def by_seed(self, column: str) -> dict[int, float]:
        """Return the value of a column of `COLUMNS` for each seed."""
        return {run.settings["seed"]: COLUMNS[column].of(run) for run in self.runs}


@dataclass(frozen=True)
class Column:
    """One number of a run, computed from its `metrics.csv`; rounds without the metric are skipped.

    Attributes:
        heading: the column's heading in tables.
        metric: the column of `metrics.csv`.
        last: average over this many last rounds; None: over all rounds.
        megabytes: sum over rounds in MB (10^6 bytes) instead of the mean.
        usual: shown in tables for which no columns were chosen.
    """

    heading: str
    metric: str
    last: int | None = None
    megabytes: bool = False
    usual: bool = True

    def of(self, run: Run) -> float:
        """Return the run's number; NaN if it was not measured."""
        if self.megabytes:
            return At("sum").of(run, self.metric) / 1e6
        return (At("last", self.last) if self.last else At("mean")).of(run, self.metric)

    def cell(self, runs: Sequence[Run]) -> str:
        """Return mean ± sample standard deviation over runs.

        Bytes hardly depend on the seed, so their deviation is left out.
        """
        values = [self.of(run) for run in runs]
        if self.megabytes:
            return mean_std([sum(values) / len(values)], digits=1)
        return mean_std(values)


# The authors of arXiv 2402.01342 report the mean over the last five rounds.
COLUMNS = {
    "accuracy": Column("test accuracy, last 5 rounds", "test_accuracy", 5),
    "own_accuracy": Column("accuracy on clients' own data, last 5 rounds", "client_accuracy", 5),
    "last_client_accuracy_barrier": Column(
        "client accuracy barrier, last 5", "client_accuracy_barrier", 5
    ),
    "client_accuracy_barrier": Column(
        "client accuracy barrier, all rounds", "client_accuracy_barrier"
    ),
    "client_loss_barrier": Column("client loss barrier, all rounds", "client_loss_barrier"),
    "client_ends_accuracy": Column("clients' accuracy", "client_ends_accuracy", usual=False),
    "client_midpoint_accuracy": Column(
        "midpoint accuracy", "client_midpoint_accuracy", usual=False
    ),
    "matched_accuracy_barrier": Column(
        "accuracy barrier after matching", "matched_accuracy_barrier"
    ),
    "matched_loss_barrier": Column("loss barrier after matching", "matched_loss_barrier"),
    "matched_midpoint_accuracy": Column(
        "midpoint accuracy after matching", "matched_midpoint_accuracy", usual=False
    ),
    "repaired_accuracy_barrier": Column(
        "accuracy barrier after REPAIR", "repaired_accuracy_barrier"
    ),
    "repaired_loss_barrier": Column("loss barrier after REPAIR", "repaired_loss_barrier"),
    "repaired_midpoint_accuracy": Column(
        "midpoint accuracy after REPAIR", "repaired_midpoint_accuracy", usual=False
    ),
    "matched_repaired_accuracy_barrier": Column(
        "accuracy barrier after matching and REPAIR", "matched_repaired_accuracy_barrier"
    ),
    "matched_repaired_loss_barrier": Column(
        "loss barrier after matching and REPAIR", "matched_repaired_loss_barrier"
    ),
    "matched_repaired_midpoint_accuracy": Column(
        "midpoint accuracy after matching and REPAIR",
        "matched_repaired_midpoint_accuracy",
        usual=False,
    ),
    "matching_sweeps": Column("matching passes", "matching_sweeps"),
    "fusion_gap": Column("fusion gap, all rounds", "fusion_gap"),
    "fusion_gap_accuracy": Column("accuracy fusion gap, all rounds", "fusion_gap_accuracy"),
    "matched_fusion_gap": Column("fusion gap after matching", "matched_fusion_gap"),
    "matched_fusion_gap_accuracy": Column(
        "accuracy fusion gap after matching", "matched_fusion_gap_accuracy"
    ),
    "mix_gap": Column("gap of random mixes", "mix_gap"),
    **{
        f"{way}_{kind}": Column(f"{word}, {kind} tasks, last round", f"{way}_{kind}", 1)
        for way, word in (("probe", "probing"), ("finetune", "fine-tuning"))
        for kind in ("seen", "unseen")
    },
    "corrupted_accuracy": Column("corrupted accuracy, last 5 rounds", "corrupted_accuracy", 5),
    "mean_ingredient_accuracy": Column(
        "ingredients' mean accuracy, last 5", "mean_ingredient_accuracy", 5, usual=False
    ),
    "highest_ingredient_accuracy": Column(
        "highest ingredient's accuracy, last 5", "highest_ingredient_accuracy", 5, usual=False
    ),
    **{
        f"fusion_{name}_accuracy": Column(
            f"{name}, accuracy, last 5", f"fusion_{name}_accuracy", 5, usual=False
        )
        for name in BUILTIN["fusions"]
    },
    "megabytes_down": Column("MB down", "bytes_down", megabytes=True),
    "megabytes_up": Column("MB up", "bytes_up", megabytes=True),
}


def groups(runs: Sequence[Run]) -> list[Row]:
    """Return runs that differ only in the seed as one row, named by the settings that vary.

    A seed counts once in a row. A run that has not finished has a row of its own, which says how
    far it is.
    """
    settings = telling([run.counted for run in runs])
    grouped: dict[str, tuple[Settings, dict[int, Run]]] = {}
    for run, own in zip(runs, settings, strict=True):
        _, by_seed = grouped.setdefault(f"{own} {run.unfinished}", (own, {}))
        by_seed.setdefault(run.settings["seed"], run)
    shared = common([own for own, _ in grouped.values()])
    rows: dict[str, Row] = {}
    for own, by_seed in grouped.values():
        found = list(by_seed.values())
        arm = beside(own, shared) or str(found[0].settings["name"])
        arm += f" ({found[0].unfinished})" if found[0].unfinished else ""
        arm += f" [{found[0].path.name}]" if arm in rows else ""
        rows[arm] = Row(arm, found)
    return [rows[arm] for arm in sorted(rows)]


def common_settings(runs: Sequence[Run]) -> list[str]:
    """Return a line on the values that the names of rows leave out, if there are any."""
    shared = common(list({str(own): own for own in telling([r.counted for r in runs])}.values()))
    return [f"{COMMON}, where a run names no others: {label(shared)}"] if shared else []


def remarks(runs: Sequence[Run], rows: Sequence[Row]) -> list[str]:
    """Return a line on each run that is not in the rows, ended before its last round, or limped."""
    shown = {id(run): run for row in rows for run in row.runs}
    lines = []
    for run in runs:
        if run.unfinished:
            lines.append(f"{run.path}: not finished, {run.unfinished}")
        if id(run) not in shown:
            twin = next(other for other in shown.values() if other.is_twin_of(run))
            lines.append(twin_of(run, twin))
        if run.ended_early:
            lines.append(f"{run.path}: {run.ended_early}")
        if run.warning:
            lines.append(f"{run.path}: {run.warning}")
    return lines


def measured(rows: Sequence[Row]) -> list[str]:
    """Return the names of the columns that at least one run has measured."""
    return [
        name
        for name, column in COLUMNS.items()
        if not all(isnan(column.of(run)) for row in rows for run in row.runs)
    ]


def differences(
    rows: Sequence[Row], baseline: str, columns: Sequence[str] = ("accuracy",)
) -> dict[str, list[Difference | None]]:
    """Return each row's differences in some columns from the baseline, paired by seed.

    A row is compared with the baseline's row of the same varied settings; the baseline's own rows
    give None. The p of all rows and columns are corrected together.
    """
    found: list[Difference | None] = []
    for name in columns:
        theirs = {str(row.varied): row.by_seed(name) for row in rows if row.arm == baseline}
        found += [
            None
            if row.arm == baseline
            else paired(row.by_seed(name), theirs.get(str(row.varied), {}))
            for row in rows
        ]
    every = iter(corrected(found))
    return {name: [next(every) for _ in rows] for name in columns}


def table(
    rows: Sequence[Row],
    columns: Sequence[str] | None = None,
    baseline: str | None = None,
    compared: Sequence[str] = ("accuracy",),
) -> str:
    """Return a Markdown table: mean ± sample standard deviation over seeds of each column.

    Args:
        rows: one a line; all have the same keys in `varied`.
        columns: names in `COLUMNS`; None takes the usual ones that were measured.
        baseline: an arm; columns then show how far the others differ from it.
        compared: in which of the columns.
    """
    beside = differences(rows, baseline, compared) if baseline is not None else {}
    keys = [*rows[0].varied]
    cells = {short(key, keys): [str(row.varied[key]) for row in rows] for key in keys}
    cells |= {"run": [row.arm for row in rows], "seeds": [str(len(row.runs)) for row in rows]}
    for name in columns or [name for name in measured(rows) if COLUMNS[name].usual]:
        cells[COLUMNS[name].heading] = [COLUMNS[name].cell(row.runs) for row in rows]
        if name in beside:
            heading = f"minus {baseline}'s" + (f": {name}" if len(beside) > 1 else "")
            cells[heading] = [str(difference or UNKNOWN) for difference in beside[name]]
    return markdown(cells)


def markdown(
    cells: Mapping[str, Sequence[str]] | Sequence[Sequence[str]],
    headings: list[str] | None = None,
) -> str:
    """Return a Markdown table of texts: columns by heading, or rows with the headings beside."""
    return pd.DataFrame(cells, columns=headings).to_markdown(index=False, disable_numparse=True)
