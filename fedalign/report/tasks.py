"""How good bodies are for seen and unseen tasks: over rounds, and task by task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from fedalign.errors import InputError
from fedalign.report.comparison import Comparison
from fedalign.report.curves import plot_mean
from fedalign.report.figures import MAX_BANDS
from fedalign.report.panels import grid, legend_above
from fedalign.report.reading import Run
from fedalign.report.style import looks_of, styled
from fedalign.report.tables import Row

WAYS = {"probe": "probing", "finetune": "fine-tuning"}
PANELS = {
    (way, seen): f"{'seen' if seen else 'unseen'} tasks, {word}"
    for way, word in WAYS.items()
    for seen in (1, 0)
}
EXPLAINED = (
    "Accuracy on each task's test examples, mean ± sample standard deviation over seeds: of the "
    "model that the run began with, and of that of the last measured round."
)


@styled()
def over_tasks(found: Comparison) -> Figure:
    """Return a figure of mean accuracy over tasks by round; 0 is the start.

    A panel each for seen and unseen tasks, probed and fine-tuned; bands are one standard deviation
    over seeds.
    """
    tables = {
        (panel, arm.label): _means(arm.runs, *panel) for panel in PANELS for arm in found.arms
    }
    shown = [panel for panel in PANELS if any(len(tables[panel, a.label]) for a in found.arms)]
    if not shown:
        raise InputError(
            "no run has tasks.csv; evaluation.tasks.on makes runs judge bodies by tasks"
        )
    bases = {base for base in found.baselines if base}
    looks = looks_of([arm.label for arm in found.arms], bases.pop() if len(bases) == 1 else None)
    figure, axes = grid(len(shown))
    for panel, ax in zip(shown, axes, strict=True):
        for arm in found.arms:
            table = tables[panel, arm.label]
            plot_mean(ax, table, looks[arm.label], band=len(found.arms) <= MAX_BANDS)
        ax.set(title=PANELS[panel])
    figure.supxlabel("round", fontsize="medium")
    figure.supylabel("mean accuracy over tasks", fontsize="medium")
    legend_above(figure, looks)
    return figure


def _means(runs: Sequence[Run], way: str, seen: int) -> pd.DataFrame:
    """Return the mean accuracy over tasks, a row a round, a column a seed."""
    found = {}
    for run in runs:
        own = run.tasks[(run.tasks["way"] == way) & (run.tasks["seen"] == seen)]
        found[run.settings["seed"]] = own.groupby("round")["accuracy"].mean()
    return pd.DataFrame(found)


@dataclass(frozen=True)
class Line:
    """What runs of one arm reach on a task in one way: accuracies of each seed."""

    arm: str
    task: str
    seen: bool
    way: str
    start: Sequence[float]
    last: Sequence[float]


def lines(rows: Sequence[Row]) -> list[Line]:
    """Return a line for each arm, task and way that was measured."""
    found = []
    for row in rows:
        measured = [run.tasks.assign(run=str(run.path)) for run in row.runs if len(run.tasks)]
        keys = ["task", "seen", "way"]
        for key, own in pd.concat(measured).groupby(keys, sort=False) if measured else ():
            task, seen, way = key
            by_run = own.groupby("run", sort=False)["accuracy"]
            ends = by_run.first().tolist(), by_run.last().tolist()
            found.append(Line(row.arm, str(task), bool(seen), WAYS[str(way)], *ends))
    return found
