"""Pictures of finished runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from fedalign.report.tables import Run, groups

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}


def draw(runs: Sequence[Run], path: Path) -> None:
    """Draw test accuracy over rounds, the barrier over rounds, and the last round's mean line."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(11, 3.4), layout="constrained")
        accuracy, barrier, line = figure.subplots(1, 3)
        for label, group in groups(runs).items():
            rounds = pd.concat(run.metrics for run in group).groupby("round")
            for axis, column in ((accuracy, "test_accuracy"), (barrier, "client_accuracy_barrier")):
                mean, spread = rounds[column].mean(), rounds[column].std().fillna(0)
                axis.plot(mean.index, mean, label=label)
                axis.fill_between(mean.index, mean - spread, mean + spread, alpha=0.15, linewidth=0)
            along = pd.concat(_last_line(run) for run in group).groupby("alpha")["accuracy"].mean()
            line.plot(along.index, along, marker="o", markersize=3, label=label)
        accuracy.set(title="Global model", xlabel="round", ylabel="test accuracy")
        barrier.set(title="Between two clients", xlabel="round", ylabel="accuracy barrier")
        line.set(
            title="Line between two clients, last round", xlabel="alpha", ylabel="test accuracy"
        )
        accuracy.legend()
        figure.savefig(path, dpi=160)


def _last_line(run: Run) -> pd.DataFrame:
    curves = run.landscape
    last = curves["round"] == curves["round"].max()
    found: pd.DataFrame = curves.loc[last & curves["path"].str.startswith("clients")]
    return found
