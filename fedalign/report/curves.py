"""Draw a metric over rounds, or over the bytes sent, with bands over seeds."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedalign.report.comparison import Arm, Comparison
from fedalign.report.figures import MAX_BANDS, MAX_MARKERS
from fedalign.report.measures import TRAFFIC, series
from fedalign.report.panels import grid, legend_above, looks, panels
from fedalign.report.style import styled


@styled()
def over_rounds(found: Comparison) -> Figure:
    """Return a figure of the mean over seeds by round, with a band of one standard deviation."""
    return _curves(found, "round")


@styled()
def over_bytes(found: Comparison) -> Figure:
    """Return a figure of the mean over seeds by what was sent until then, down and up."""
    return _curves(found, TRAFFIC)


def _curves(found: Comparison, x: str) -> Figure:
    several = panels(found)
    shown = looks(several)
    figure, axes = grid(len(several))
    for panel, ax in zip(several, axes, strict=True):
        for name, arm in panel.arms.items():
            _plot(ax, arm, found.metric, x, shown[name], len(panel.arms) <= MAX_BANDS)
        ax.set(title=panel.title)
    figure.supxlabel("round" if x == "round" else "MB sent, down and up", fontsize="medium")
    figure.supylabel(found.metric.replace("_", " "), fontsize="medium")
    legend_above(figure, shown)
    return figure


def _plot(ax: Axes, arm: Arm, metric: str, x: str, look: dict[str, Any], band: bool) -> None:
    table = pd.DataFrame({run.settings["seed"]: series(run, metric) for run in arm.runs})
    if x == TRAFFIC:
        sent = pd.DataFrame({run.path: series(run, TRAFFIC).cumsum() / 1e6 for run in arm.runs})
        plot_mean(ax, table, look, band, sent.mean(axis=1))
    else:
        plot_mean(ax, table, look, band)


def plot_mean(
    ax: Axes,
    table: pd.DataFrame,
    look: dict[str, Any],
    band: bool,
    x: pd.Series[float] | None = None,
) -> None:
    """Plot the mean over seeds, and a band of one standard deviation.

    Args:
        ax: the panel.
        table: a row a round, a column a seed.
        look: of the line.
        band: whether to draw the band.
        x: where the rounds lie; None: at their numbers.
    """
    table = table.dropna(how="all")
    mean, spread = table.mean(axis=1), table.std(axis=1).fillna(0)
    at = pd.Series(table.index, index=table.index) if x is None else x.reindex(table.index)
    if x is None:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    ax.plot(at, mean, **look, markevery=1 + len(mean) // MAX_MARKERS)
    if band and len(table.columns) > 1:
        ax.fill_between(at, mean - spread, mean + spread, color=look["color"], alpha=0.13, lw=0)
