"""Finished runs side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from fedalign.config import flatten
from fedalign.errors import InputError

# The authors of arXiv 2402.01342 report the mean over the last five rounds.
COLUMNS = {
    "test accuracy, last 5 rounds": ("test_accuracy", 5),
    "client accuracy barrier, last 5": ("client_accuracy_barrier", 5),
    "the same, all rounds": ("client_accuracy_barrier", None),
    "client loss barrier, all rounds": ("client_loss_barrier", None),
}
IGNORED = {"seed", "out"}


@dataclass(frozen=True)
class Run:
    """One run folder: its settings under dotted keys, its rounds, its curves."""

    path: Path
    settings: dict[str, Any]
    metrics: pd.DataFrame
    landscape: pd.DataFrame


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


def groups(runs: Sequence[Run]) -> dict[str, list[Run]]:
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
        label = ", ".join(_label(key, run.settings[key]) for key in varied if key in run.settings)
        grouped.setdefault(label or run.settings["name"], []).append(run)
    return dict(sorted(grouped.items()))


def table(runs: Sequence[Run]) -> str:
    """Return a Markdown table of means over rounds: mean ± standard deviation over seeds.

    The standard deviation is that of a sample (n - 1); one seed has none.
    """
    lines = ["| run | seeds | " + " | ".join(COLUMNS) + " |", "|---" * (len(COLUMNS) + 2) + "|"]
    for label, group in groups(runs).items():
        cells = [
            _mean_std([run.metrics[column].tail(last or len(run.metrics)).mean() for run in group])
            for column, last in COLUMNS.values()
        ]
        lines.append(f"| {label} | {len(group)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _mean_std(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{np.mean(values):.4f}"
    return f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"


def _label(key: str, value: Any) -> str:
    return str(value) if key.endswith("name") else f"{key.rpartition('.')[2]} {value}"
