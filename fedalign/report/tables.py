"""Finished runs side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import isnan, nan
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from fedalign.errors import InputError
from fedalign.report.statistics import UNKNOWN, Difference, mean_std, paired
from fedalign.settings.layers import flatten

IGNORED = {"seed", "out", "evaluation.threads"}


@dataclass(frozen=True)
class Run:
    """One run folder: its settings under dotted keys, its rounds, its curves."""

    path: Path
    settings: dict[str, Any]
    metrics: pd.DataFrame
    landscape: pd.DataFrame


@dataclass(frozen=True)
class Row:
    """Runs that differ in nothing but the seed: an arm, under one choice of what is varied."""

    arm: str
    runs: Sequence[Run]
    varied: Mapping[str, Any] = field(default_factory=dict)

    def by_seed(self, column: str) -> dict[int, float]:
        """Return a column's number for each seed."""
        return {run.settings["seed"]: COLUMNS[column].of(run) for run in self.runs}


@dataclass(frozen=True)
class Column:
    """One number of a run, from its `metrics.csv`; rounds without a measurement do not count.

    Attributes:
        heading: over the column.
        metric: the column of `metrics.csv`.
        last: mean over so many of the last rounds; None: over all of them.
        megabytes: the sum over rounds in MB (10^6 bytes), in place of the mean.
        usual: stands in a table that names no columns.
    """

    heading: str
    metric: str
    last: int | None = None
    megabytes: bool = False
    usual: bool = True

    def of(self, run: Run) -> float:
        """Return the number; NaN if it was not measured."""
        if self.metric not in run.metrics:
            return nan
        values = run.metrics[self.metric]
        if self.megabytes:
            return float(values.sum() / 1e6)
        return float(values.tail(self.last or len(values)).mean())

    def cell(self, runs: Sequence[Run]) -> str:
        """Return mean ± sample standard deviation over runs; bytes hardly depend on the seed."""
        values = [self.of(run) for run in runs]
        if self.megabytes:
            return mean_std([sum(values) / len(values)], digits=1)
        return mean_std(values)


# The authors of arXiv 2402.01342 report the mean over the last five rounds.
COLUMNS = {
    "accuracy": Column("test accuracy, last 5 rounds", "test_accuracy", 5),
    "last_client_accuracy_barrier": Column(
        "client accuracy barrier, last 5", "client_accuracy_barrier", 5
    ),
    "client_accuracy_barrier": Column(
        "client accuracy barrier, all rounds", "client_accuracy_barrier"
    ),
    "client_loss_barrier": Column("client loss barrier, all rounds", "client_loss_barrier"),
    "client_ends_accuracy": Column("clients' accuracy", "client_ends_accuracy", usual=False),
    "client_midpoint_accuracy": Column(
        "accuracy half way", "client_midpoint_accuracy", usual=False
    ),
    "matched_accuracy_barrier": Column(
        "accuracy barrier after matching", "matched_accuracy_barrier"
    ),
    "matched_loss_barrier": Column("loss barrier after matching", "matched_loss_barrier"),
    "matched_midpoint_accuracy": Column(
        "accuracy half way after matching", "matched_midpoint_accuracy", usual=False
    ),
    "repaired_accuracy_barrier": Column(
        "accuracy barrier after REPAIR", "repaired_accuracy_barrier"
    ),
    "repaired_loss_barrier": Column("loss barrier after REPAIR", "repaired_loss_barrier"),
    "repaired_midpoint_accuracy": Column(
        "accuracy half way after REPAIR", "repaired_midpoint_accuracy", usual=False
    ),
    "matched_repaired_accuracy_barrier": Column(
        "accuracy barrier after matching and REPAIR", "matched_repaired_accuracy_barrier"
    ),
    "matched_repaired_loss_barrier": Column(
        "loss barrier after matching and REPAIR", "matched_repaired_loss_barrier"
    ),
    "matched_repaired_midpoint_accuracy": Column(
        "accuracy half way after matching and REPAIR",
        "matched_repaired_midpoint_accuracy",
        usual=False,
    ),
    "matching_sweeps": Column("matching: passes", "matching_sweeps"),
    "fusion_gap": Column("fusion gap, all rounds", "fusion_gap"),
    "fusion_gap_accuracy": Column("accuracy fusion gap, all rounds", "fusion_gap_accuracy"),
    "matched_fusion_gap": Column("fusion gap after matching", "matched_fusion_gap"),
    "matched_fusion_gap_accuracy": Column(
        "accuracy fusion gap after matching", "matched_fusion_gap_accuracy"
    ),
    "mix_gap": Column("gap of random mixes", "mix_gap"),
    "megabytes_down": Column("MB down", "bytes_down", megabytes=True),
    "megabytes_up": Column("MB up", "bytes_up", megabytes=True),
}


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Return the runs in these folders; `InputError` names one that holds no run."""
    found = []
    for folder in folders:
        try:
            found.append(
                Run(
                    folder,
                    flatten(yaml.safe_load((folder / "config.yaml").read_text("utf-8"))),
                    pd.read_csv(folder / "metrics.csv"),
                    pd.read_csv(folder / "landscape.csv"),
                )
            )
        except FileNotFoundError as error:
            raise InputError(
                f"{folder} is no run folder: it has no {Path(error.filename).name}"
            ) from None
    return found


def groups(runs: Sequence[Run]) -> list[Row]:
    """Return runs that differ in nothing but the seed together, labelled by what does differ."""
    keys = sorted({key for run in runs for key in run.settings} - IGNORED)
    varied = [
        key
        for key in keys
        if len({str(run.settings[key]) for run in runs if key in run.settings}) > 1
        and not key.startswith("simulation.")
    ]
    grouped: dict[str, list[Run]] = {}
    for run in runs:
        told = {key: run.settings[key] for key in varied if key in run.settings}
        grouped.setdefault(label(told) or run.settings["name"], []).append(run)
    return [Row(arm, group) for arm, group in sorted(grouped.items())]


def measured(rows: Sequence[Row]) -> list[str]:
    """Return the columns in which some run has a number."""
    return [
        name
        for name, column in COLUMNS.items()
        if not all(isnan(column.of(run)) for row in rows for run in row.runs)
    ]


def differences(rows: Sequence[Row], baseline: str) -> list[Difference | None]:
    """Return each row's accuracy beside that of the baseline, paired by seed.

    The baseline's row is the one with the same varied settings; itself it has no difference.
    """
    theirs = {str(row.varied): row.by_seed("accuracy") for row in rows if row.arm == baseline}
    return [
        None
        if row.arm == baseline
        else paired(row.by_seed("accuracy"), theirs.get(str(row.varied), {}))
        for row in rows
    ]


def table(
    rows: Sequence[Row], columns: Sequence[str] | None = None, baseline: str | None = None
) -> str:
    """Return a Markdown table: mean ± sample standard deviation over seeds of each column.

    Args:
        rows: one a line; each has the same varied settings.
        columns: of `COLUMNS`; None takes what was measured.
        baseline: an arm whose accuracy is set beside that of the others.
    """
    keys = [*rows[0].varied]
    lines = [[*(short(key, keys) for key in keys), "run", "seeds"]]
    lines += [[*map(str, row.varied.values()), row.arm, str(len(row.runs))] for row in rows]
    for name in columns or [name for name in measured(rows) if COLUMNS[name].usual]:
        _add(lines, [COLUMNS[name].heading, *(COLUMNS[name].cell(row.runs) for row in rows)])
        if name == "accuracy" and baseline is not None:
            beside = [str(told or UNKNOWN) for told in differences(rows, baseline)]
            _add(lines, [f"minus {baseline}'s", *beside])
    lines.insert(1, ["---"] * len(lines[0]))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def label(settings: Mapping[str, Any]) -> str:
    """Return dotted settings in a few words: `alpha 0.1, fedpfn`."""
    return ", ".join(
        str(value) if key.endswith("name") else f"{short(key, settings)} {value}"
        for key, value in settings.items()
    )


def short(key: str, keys: Iterable[str]) -> str:
    """Return the last word of a dotted key, or all of it where another key ends so too."""
    key, last = key.removesuffix(".name"), key.removesuffix(".name").rpartition(".")[2]
    others = [other.removesuffix(".name") for other in keys]
    return key if sum(other.rpartition(".")[2] == last for other in others) > 1 else last


def _add(lines: list[list[str]], column: Sequence[str]) -> None:
    for line, cell in zip(lines, column, strict=True):
        line.append(cell)
