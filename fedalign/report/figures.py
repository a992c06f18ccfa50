"""Pictures of finished runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from fedalign.report.statistics import Difference, deviation
from fedalign.report.tables import COLUMNS, Row, Run, differences, label, measured, short

STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
}
BLACK = "#000000"
# Okabe and Ito's colours, which the colour-blind can tell apart too; then the same ones dashed.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D46")
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.2)))
MOST_BANDS = 5  # more arms than these, and their bands hide each other

OVER_ROUNDS = {  # title and label by column of metrics.csv
    "test_accuracy": ("Global model", "test accuracy"),
    "client_accuracy_barrier": ("Between two clients", "accuracy barrier"),
    "fusion_gap": ("Aggregate beside its parts", "fusion gap (nats)"),
}
TITLES = {
    "accuracy": ("Global model", "test accuracy, last 5 rounds"),
    "client_ends_accuracy": ("Clients' models", "test accuracy"),
    "client_midpoint_accuracy": ("Half way between two clients", "test accuracy"),
    "client_accuracy_barrier": ("Between two clients", "accuracy barrier"),
    "client_loss_barrier": ("Between two clients", "loss barrier (nats)"),
    "matched_accuracy_barrier": ("After matching neurons", "accuracy barrier"),
    "matched_loss_barrier": ("After matching neurons", "loss barrier (nats)"),
    "repaired_accuracy_barrier": ("After REPAIR", "accuracy barrier"),
    "repaired_loss_barrier": ("After REPAIR", "loss barrier (nats)"),
    "matched_repaired_accuracy_barrier": ("After matching and REPAIR", "accuracy barrier"),
    "matched_repaired_loss_barrier": ("After matching and REPAIR", "loss barrier (nats)"),
    "matching_sweeps": ("Matching neurons", "passes over the layers"),
    "fusion_gap": ("Aggregate beside its parts", "fusion gap (nats)"),
    "fusion_gap_accuracy": ("Aggregate beside its parts", "fusion gap (accuracy)"),
    "matched_fusion_gap_accuracy": ("The same after matching", "fusion gap (accuracy)"),
}
USUAL = ("accuracy", "client_accuracy_barrier", "client_loss_barrier", "fusion_gap")
SHIFT = 0.012  # of the width, so that the bars of several arms do not hide one another
Looks = Mapping[str, dict[str, Any]]  # of each arm


def save(figure: Figure, *paths: Path) -> None:
    """Write a figure into PNG or PDF files."""
    for path in paths:
        figure.savefig(path, dpi=160)


@mpl.rc_context(STYLE)
def over_rounds(rows: Sequence[Row], baseline: str | None = None) -> Figure:
    """Return test accuracy and barriers over rounds, and the last round's mean line.

    A band is one sample standard deviation over seeds. What is varied has a row of panels each.
    """
    shown = [
        column
        for column in OVER_ROUNDS
        if any(
            column in run.metrics and run.metrics[column].any() for row in rows for run in row.runs
        )
    ]
    lines = any(len(_last_line(run)) for row in rows for run in row.runs)
    looks, count = _looks(rows, baseline), len(shown) + lines
    figure, found = strips(rows, [], count)
    for strip, group in found:
        panels = strip.subplots(1, count, squeeze=False)[0]
        for column, panel in zip(shown, panels, strict=False):
            for row in group:
                _plot_rounds(panel, row, column, looks)
            panel.set(title=OVER_ROUNDS[column][0], xlabel="round", ylabel=OVER_ROUNDS[column][1])
        if lines:
            _plot_lines(panels[-1], group, looks)
    _legend(figure, looks)
    return figure


@mpl.rc_context(STYLE)
def sweep(
    rows: Sequence[Row],
    x: str,
    baseline: str | None = None,
    panels: Sequence[str] | None = None,
    log: bool = False,
) -> Figure:
    """Return accuracy and barriers over the varied setting `x`, a line an arm.

    Bars are one sample standard deviation over seeds. An arm that is the same run for all values
    of `x` is a level line with its band.
    """
    shown = [column for column in panels or USUAL if column in measured(rows)]
    shown = [column for column in shown if panels or not _nothing(rows, column)] or shown
    looks = _looks(rows, baseline)
    figure, found = strips(rows, [x], len(shown))
    for strip, group in found:
        axes = strip.subplots(1, len(shown), squeeze=False)[0]
        for column, panel in zip(shown, axes, strict=True):
            for arm, look in looks.items():
                shift = SHIFT * (list(looks).index(arm) - (len(looks) - 1) / 2)
                own = [row for row in group if row.arm == arm]
                _plot_sweep(panel, own, x, column, look, 0.0 if log else shift)
            title, told = TITLES.get(column, ("", COLUMNS[column].heading))
            panel.set(title=title, xlabel=short(x, [x]).replace("_", " "), ylabel=told)
            if log:
                _ticks_where_measured(panel, [row.varied[x] for row in group])
    _legend(figure, looks)
    return figure


@mpl.rc_context(STYLE)
def beside_baseline(rows: Sequence[Row], baseline: str) -> Figure:
    """Return each arm's paired difference in accuracy from the baseline, with its 95 % interval.

    Arms are sorted, a panel for each combination; a filled dot where the interval leaves out 0.
    """
    found = list(zip(rows, differences(rows, baseline), strict=True))
    combinations = list(dict.fromkeys(label(row.varied) for row in rows))
    height = 1.1 + 0.27 * len(_looks(rows, baseline))
    figure = Figure(figsize=(1.2 + 4.6 * len(combinations), height), layout=layout())
    panels = figure.subplots(1, len(combinations), squeeze=False, sharex=True)[0]
    for told, panel in zip(combinations, panels, strict=True):
        here = [(row, difference) for row, difference in found if label(row.varied) == told]
        _plot_differences(panel, here, baseline)
        panel.set_title(told, loc="left", fontweight="bold")
    told = f"test accuracy minus {baseline}'s: mean and 95 % interval; filled: significant"
    figure.supxlabel(told, fontsize=9)
    return figure


def _nothing(rows: Sequence[Row], column: str) -> bool:
    """Return whether a column is 0 for all runs, but for rounding."""
    return all(abs(v) < 1e-9 for row in rows for v in row.by_seed(column).values())


def _looks(rows: Sequence[Row], baseline: str | None) -> Looks:
    """Return colour and dashes of each arm, in order: the baseline is black."""
    arms = list(dict.fromkeys(row.arm for row in rows))
    others = [arm for arm in arms if arm != baseline]
    styles = [{"color": colour, "linestyle": dash} for dash in DASHES for colour in COLOURS]
    looks = {arm: styles[place % len(styles)] for place, arm in enumerate(others)}
    return {arm: looks.get(arm, {"color": BLACK, "linestyle": "-", "zorder": 3}) for arm in arms}


def strips(
    rows: Sequence[Row], inside: Sequence[str], columns: int, lines: int = 1
) -> tuple[Figure, list[tuple[SubFigure, list[Row]]]]:
    """Return a figure with a strip for each choice of what is varied, other than `inside`.

    A strip has room for so many columns and lines of panels.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        told = label({key: value for key, value in row.varied.items() if key not in inside})
        groups.setdefault(told, []).append(row)
    height = max(
        3.2 * lines * len(groups), 0.3 + 0.19 * len({row.arm for row in rows})
    )  # of the legend
    figure = Figure(figsize=(1.9 + 3.4 * columns, height), layout=layout())
    found = figure.subfigures(len(groups), 1, squeeze=False)[:, 0]
    for told, strip in zip(groups, found, strict=True):
        if told:
            strip.suptitle(told, x=0.01, ha="left", fontsize=10, fontweight="bold")
    return figure, list(zip(found, groups.values(), strict=True))


def _plot_rounds(panel: Axes, row: Row, column: str, looks: Looks) -> None:
    there = [run.metrics for run in row.runs if column in run.metrics]
    if not there:
        return
    rounds = pd.concat(there).groupby("round")[column]
    mean, spread = rounds.mean().dropna(), rounds.std().fillna(0)
    spread = spread[mean.index]
    panel.plot(mean.index, mean, marker="o" if len(mean) == 1 else None, **looks[row.arm])
    panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if len(looks) <= MOST_BANDS:
        colour = looks[row.arm]["color"]
        low, high = mean - spread, mean + spread
        panel.fill_between(mean.index, low, high, color=colour, alpha=0.13, linewidth=0)


def _plot_lines(panel: Axes, rows: Sequence[Row], looks: Looks) -> None:
    for row in rows:
        along = pd.concat(_last_line(run) for run in row.runs).groupby("alpha")["accuracy"].mean()
        panel.plot(along.index, along, marker="o", markersize=2.5, **looks[row.arm])
    title = "Line between two clients, last round"
    panel.set(title=title, xlabel="place on the line", ylabel="test accuracy")


def _plot_sweep(
    panel: Axes, rows: Sequence[Row], x: str, column: str, look: dict[str, Any], shift: float
) -> None:
    """Draw one arm: its mean and deviation at each value of x, a little beside the other arms'."""
    values = [list(row.by_seed(column).values()) for row in rows]
    means, spreads = [float(np.mean(v)) for v in values], [deviation(v) for v in values]
    if len(rows) > 1 and len({tuple(run.path for run in row.runs) for row in rows}) == 1:
        panel.axhline(means[0], **look | {"linewidth": 1.2})
        if len(values[0]) > 1:
            band = means[0] - spreads[0], means[0] + spreads[0]
            panel.axhspan(*band, color=look["color"], alpha=0.08, linewidth=0)
    elif rows:
        places = [row.varied[x] for row in rows]
        places = [place + shift * (max(places) - min(places)) for place in places]
        panel.errorbar(places, means, spreads, marker="o", markersize=3.5, capsize=2, **look)


def _ticks_where_measured(panel: Axes, places: Sequence[float]) -> None:
    panel.set_xscale("log")
    panel.set_xticks(sorted(set(places)), labels=[f"{place:g}" for place in sorted(set(places))])
    panel.minorticks_off()


def _plot_differences(
    panel: Axes, found: Sequence[tuple[Row, Difference | None]], baseline: str
) -> None:
    """Draw a dot and an interval for each arm, the best on top; accuracies stand at the right."""
    none = Difference(0.0, 0.0, 0)
    pairs = [(row, told or none) for row, told in found if told or row.arm == baseline]
    pairs.sort(key=lambda pair: pair[1].mean)
    panel.axvline(0, color=BLACK, linewidth=1)
    for place, (row, told) in enumerate(pairs):
        own = row.arm == baseline
        colour = BLACK if own else COLOURS[0] if told.mean > 0 else COLOURS[1]
        half = np.nan_to_num(told.half_width)
        panel.plot([told.mean - half, told.mean + half], [place] * 2, color=colour)
        face = colour if own or told.significant else "white"
        panel.plot(told.mean, place, "D" if own else "o", color=colour, mfc=face, markersize=6)
    panel.set_yticks(range(len(pairs)), [row.arm for row, _ in pairs])
    panel.set_ylim(-0.7, len(pairs) - 0.3)
    panel.grid(visible=False, axis="y")
    right = panel.secondary_yaxis("right")
    accuracies = [np.mean(list(row.by_seed("accuracy").values())) for row, _ in pairs]
    right.set_yticks(range(len(pairs)), [f"{accuracy:.3f}" for accuracy in accuracies])
    right.tick_params(length=0, labelcolor="#555555")
    right.spines["right"].set_visible(False)


def layout() -> ConstrainedLayoutEngine:
    """Return a layout in which panels do not run into one another."""
    return ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.06)  # inches


def _legend(figure: Figure, looks: Looks) -> None:
    """Write what each line is beside the panels, where it hides none."""
    handles = [Line2D([], [], **look) for look in looks.values()]
    figure.legend(handles, list(looks), loc="outside right upper")


def _last_line(run: Run) -> pd.DataFrame:
    curves = run.landscape
    last = curves["round"] == curves["round"].max()
    found: pd.DataFrame = curves.loc[last & curves["path"].str.startswith("clients")]
    return found
