"""Draw accuracy along the line between two clients, the picture that papers show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fedalign.report.figures import place_legend, strips
from fedalign.report.labels import label, short
from fedalign.report.style import styled
from fedalign.report.tables import Row

KINDS = {
    "clients": "",
    "repaired": ", REPAIR",
    "matched": ", neurons matched",
    "matched_repaired": ", matched, REPAIR",
}


@styled()
def along_the_line(rows: Sequence[Row], x: str) -> Figure | None:
    """Return a figure of accuracy along the line between two clients, one curve a value of `x`.

    Curves are means over seeds, each from the last round measured. Rows of panels are arms; columns
    are the clients' models as they are, after REPAIR, after matching, and after both.

    Returns:
        The figure; None if no arm has more than one value of `x`, or no line was measured.
    """
    arms = [arm for arm in dict.fromkeys(row.arm for row in rows) if _varies(rows, arm, x)]
    kinds = [kind for kind in KINDS if not all(_last(row, kind).empty for row in rows)]
    if not arms or not kinds:
        return None
    values = sorted({row.varied[x] for row in rows})
    colours = {v: mpl.colormaps["viridis"](0.92 * i / len(values)) for i, v in enumerate(values)}
    figure, groups = strips(rows, [x], len(kinds), len(arms))
    for strip, group in groups:
        axes = strip.subplots(len(arms), len(kinds), squeeze=False, sharey=True)
        for arm, row_of_panels in zip(arms, axes, strict=True):
            for kind, panel in zip(kinds, row_of_panels, strict=True):
                _plot(panel, [row for row in group if row.arm == arm], kind, x, colours)
                panel.set(title=arm + KINDS[kind], xlabel="position on the line")
            row_of_panels[0].set_ylabel("test accuracy")
    handles = [Line2D([], [], color=colours[value]) for value in values]
    title = short(x, [x]).replace("_", " ")
    names = list(map(str, values))
    drawn = figure.legend(handles, names, title=title, loc="outside right upper")
    place_legend(figure, drawn)
    return figure


def _varies(rows: Sequence[Row], arm: str, x: str) -> bool:
    """Return whether an arm has several runs along x, all other varied settings equal."""
    of_arm = [row for row in rows if row.arm == arm]
    others = {label({k: v for k, v in row.varied.items() if k != x}) for row in of_arm}
    return len({tuple(run.path for run in row.runs) for row in of_arm}) > len(others)


def _plot(panel: Axes, rows: Sequence[Row], kind: str, x: str, colours: dict[Any, Any]) -> None:
    for row in rows:
        along = _last(row, kind).groupby("alpha")["accuracy"].mean()
        panel.plot(along.index, along, color=colours[row.varied[x]])


def _last(row: Row, kind: str) -> pd.DataFrame:
    """Return each run's curves of one kind, from the last round in which they were measured."""
    last_rounds = []
    for run in row.runs:
        curves = run.landscape[run.landscape["path"].str.startswith(f"{kind}:")]
        last_rounds.append(curves[curves["round"] == curves["round"].max()])
    together: pd.DataFrame = pd.concat(last_rounds)
    return together
