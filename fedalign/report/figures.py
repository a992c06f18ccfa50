"""Draw finished runs over rounds; the strips and the legend that figures of studies share."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from fedalign.errors import InputError
from fedalign.report.labels import label
from fedalign.report.reading import Run
from fedalign.report.style import Looks, layout, looks_of, styled
from fedalign.report.tables import Row

MAX_LABEL = 48  # characters in a line of the legend
MARGIN = 0.1  # inches
MAX_MARKERS = 8  # on a line
MAX_BANDS = 5  # with more arms than this, their bands would hide one another

OVER_ROUNDS = {  # title and label by column of metrics.csv
    "test_accuracy": ("Global model", "test accuracy"),
    "client_accuracy_barrier": ("Between two clients", "accuracy barrier"),
    "fusion_gap": ("Aggregate vs. its parts", "fusion gap (nats)"),
}


@styled()
def over_rounds(rows: Sequence[Row], baseline: str | None = None) -> Figure:
    """Return a figure of test accuracy and barriers over rounds, and of the last round's mean line.

    Bands are one sample standard deviation over seeds. Each choice of the varied settings has its
    own row of panels.
    """
    shown = [
        column
        for column in OVER_ROUNDS
        if any(
            column in run.metrics and run.metrics[column].any() for row in rows for run in row.runs
        )
    ]
    lines = any(len(_last_line(run)) for row in rows for run in row.runs)
    looks, count = looks_of([row.arm for row in rows], baseline), len(shown) + lines
    if not count:
        raise InputError("nothing to draw: no round has an accuracy, barrier or gap above 0")
    figure, groups = strips(rows, [], count)
    for strip, group in groups:
        panels = strip.subplots(1, count, squeeze=False)[0]
        for column, panel in zip(shown, panels, strict=False):
            for row in group:
                _plot_rounds(panel, row, column, looks)
            panel.set(title=OVER_ROUNDS[column][0], xlabel="round", ylabel=OVER_ROUNDS[column][1])
        if lines:
            _plot_lines(panels[-1], group, looks)
    legend(figure, looks)
    return figure


def strips(
    rows: Sequence[Row], inside: Sequence[str], columns: int, lines: int = 1
) -> tuple[Figure, list[tuple[SubFigure, list[Row]]]]:
    """Return a figure with one strip for each choice of the varied settings, and the strip's rows.

    Args:
        rows: the rows to draw.
        inside: varied settings that are shown within a strip, so get no strip of their own.
        columns: number of panels side by side in a strip.
        lines: number of panels on top of one another in a strip.
    """
    groups: dict[str, list[Row]] = {}
    for row in rows:
        title = label({key: value for key, value in row.varied.items() if key not in inside})
        groups.setdefault(title, []).append(row)
    size = (0.3 + 3.4 * columns, 3.2 * lines * len(groups))
    figure = Figure(figsize=size, layout=layout())
    subfigures = figure.subfigures(len(groups), 1, squeeze=False)[:, 0]
    for title, strip in zip(groups, subfigures, strict=True):
        if title:
            strip.suptitle(title, x=0.01, ha="left", fontweight="bold")
    return figure, list(zip(subfigures, groups.values(), strict=True))


def _plot_rounds(panel: Axes, row: Row, column: str, looks: Looks) -> None:
    measured = [run.metrics for run in row.runs if column in run.metrics]
    if not measured:
        return
    rounds = pd.concat(measured).groupby("round")[column]
    mean, spread = rounds.mean().dropna(), rounds.std().fillna(0)
    spread = spread[mean.index]
    panel.plot(mean.index, mean, **looks[row.arm], markevery=1 + len(mean) // MAX_MARKERS)
    panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    if len(looks) <= MAX_BANDS:
        colour = looks[row.arm]["color"]
        low, high = mean - spread, mean + spread
        panel.fill_between(mean.index, low, high, color=colour, alpha=0.13, linewidth=0)


def _plot_lines(panel: Axes, rows: Sequence[Row], looks: Looks) -> None:
    for row in rows:
        along = pd.concat(_last_line(run) for run in row.runs).groupby("alpha")["accuracy"].mean()
        panel.plot(along.index, along, markersize=2.5, **looks[row.arm])
    title = "Line between two clients, last round"
    panel.set(title=title, xlabel="position on the line", ylabel="test accuracy")


def legend(figure: Figure, looks: Looks) -> None:
    """Draw the legend of all arms at the right, and make room for it beside the panels."""
    handles = [Line2D([], [], **look) for look in looks.values()]
    names = [wrapped(arm) for arm in looks]
    place_legend(figure, figure.legend(handles, names, loc="outside right upper"))


def wrapped(arm: str) -> str:
    """Return a label in lines, each of whole settings where they are not too long."""
    unbroken = arm.replace(" ", "\N{NO-BREAK SPACE}").replace(",\N{NO-BREAK SPACE}", ", ")
    return textwrap.fill(unbroken, MAX_LABEL)


def place_legend(figure: Figure, drawn: Legend) -> None:
    """Widen a figure by its legend, and make it as high as that if it is lower."""
    box = drawn.get_window_extent()
    width, height = figure.get_size_inches()
    needed = box.height / figure.dpi + 2 * MARGIN
    figure.set_size_inches(width + box.width / figure.dpi + MARGIN, max(height, needed))


def _last_line(run: Run) -> pd.DataFrame:
    curves = run.landscape
    last = curves["round"] == curves["round"].max()
    lines: pd.DataFrame = curves.loc[last & curves["path"].str.startswith("clients")]
    return lines
