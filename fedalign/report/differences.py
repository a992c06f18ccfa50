"""Draw how far each arm of a study or a comparison is from the baseline."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedalign.errors import InputError
from fedalign.report.comparison import Comparison
from fedalign.report.labels import label
from fedalign.report.panels import grid, panels
from fedalign.report.statistics import Difference
from fedalign.report.style import BLACK, COLOURS, layout, styled
from fedalign.report.tables import COLUMNS, Row, differences
from fedalign.runs.tables import lower_is_better

MAX_TICK = 24  # characters in a line beside an axis
EXPLAINED = "mean and 95 % interval; filled: p < 0.05 (Holm)"


@dataclass(frozen=True)
class Line:
    """An arm in the figure: its mean, and its difference; None for the baseline."""

    name: str
    mean: float
    change: Difference | None


@styled()
def beside_baseline(rows: Sequence[Row], baseline: str, column: str = "accuracy") -> Figure:
    """Return a figure of each arm's paired difference from the baseline, in a column of tables.

    Arms are sorted by their difference, drawn with its 95 % interval; dots are filled where p,
    corrected by Holm's method, is below 0.05. Each choice of the varied settings has its own panel.
    """
    lines: dict[str, list[Line]] = {}
    changes = differences(rows, baseline, [column])[column]
    for row, change in zip(rows, changes, strict=True):
        mean = float(np.mean(list(row.by_seed(column).values())))
        if change or row.arm == baseline:
            lines.setdefault(label(row.varied), []).append(Line(row.arm, mean, change))
    height = 1.1 + 0.27 * len({row.arm for row in rows})
    figure = Figure(figsize=(1.2 + 4.6 * len(lines), height), layout=layout())
    axes = figure.subplots(1, len(lines), squeeze=False, sharex=True)[0]
    for (title, own), ax in zip(lines.items(), axes, strict=True):
        _plot(ax, own, better=COLOURS[:2])
        ax.set_title(title, loc="left", fontweight="bold")
    what = COLUMNS[column].heading.rpartition(", ")[0]
    figure.supxlabel(f"{what} minus {baseline}'s: {EXPLAINED}", fontsize="medium")
    return figure


@styled()
def from_baseline(found: Comparison) -> Figure:
    """Return the same figure of a comparison: its metric, a panel for each baseline."""
    changes = dict(zip([arm.label for arm in found.arms], found.differences, strict=True))
    shown = [p for p in panels(found) if any(changes[arm.label] for arm in p.arms.values())]
    if not shown:
        raise InputError(
            "no arm shares a seed with its baseline, so there is no difference to draw"
        )
    most = max(len(panel.arms) for panel in shown)
    figure, axes = grid(len(shown), 0.7 + 0.26 * most, share=False)
    for ax in axes[1:]:
        ax.sharex(axes[0])
    better = COLOURS[:2] if not lower_is_better(found.metric) else COLOURS[1::-1]
    for panel, ax in zip(shown, axes, strict=True):
        lines = [
            Line(name, arm.mean, changes[arm.label])
            for name, arm in panel.arms.items()
            if changes[arm.label] or name == panel.baseline
        ]
        _plot(ax, lines, better)
        ax.set_title(panel.title)
    metric = found.metric.replace("_", " ")
    figure.supxlabel(f"{metric} minus {found.baseline}'s:\n{EXPLAINED}", fontsize="medium")
    return figure


def _plot(ax: Axes, lines: Sequence[Line], better: Sequence[str]) -> None:
    """Draw a dot and an interval for each arm, the highest on top, and its mean at the right.

    `better` are the colours of arms above and below the baseline.
    """
    zero = Difference(0.0, 0.0, 0)
    lines = sorted(lines, key=lambda line: (line.change or zero).mean)
    ax.axvline(0, color=BLACK, linewidth=1)
    for y, line in enumerate(lines):
        change = line.change or zero
        colour = BLACK if line.change is None else better[0] if change.mean > 0 else better[1]
        half = np.nan_to_num(change.half_width)
        ax.plot([change.mean - half, change.mean + half], [y] * 2, color=colour)
        face = colour if line.change is None or change.significant else "white"
        marker = "D" if line.change is None else "o"
        ax.plot(change.mean, y, marker, color=colour, mfc=face, markersize=5)
    names = [textwrap.fill(line.name, MAX_TICK) for line in lines]
    ax.set_yticks(range(len(lines)), names)
    ax.set_ylim(-0.7, len(lines) - 0.3)
    ax.grid(visible=False, axis="y")
    right = ax.secondary_yaxis("right")
    right.set_yticks(range(len(lines)), [f"{line.mean:.3f}" for line in lines])
    right.tick_params(length=0, labelcolor="#555555")
    right.spines["right"].set_visible(False)
