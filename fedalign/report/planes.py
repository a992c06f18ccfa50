"""Draw test accuracy in planes through three models."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure

from fedalign.errors import InputError
from fedalign.report.panels import grid
from fedalign.report.reading import read_table
from fedalign.report.style import styled
from fedalign.report.tables import Row
from fedalign.runs.tables import PLANES

MAX_TITLE = 34  # characters in a line above a panel
STEP = 0.05  # of accuracy, from one colour to the next


def one_each(rows: Sequence[Row]) -> list[tuple[str, pd.DataFrame]]:
    """Return the first plane of each row's first seed, see `planes_of`."""
    firsts = [Row(f"{row.arm}, seed {row.runs[0].settings['seed']}", row.runs[:1]) for row in rows]
    return [planes_of([row])[0] for row in firsts]


def planes_of(rows: Sequence[Row]) -> list[tuple[str, pd.DataFrame]]:
    """Return title and table of each plane in each run's last measured round.

    Raises:
        InputError: a run has no `planes.csv`.
    """
    planes = []
    for row in rows:
        for run in row.runs:
            seed = f", seed {run.settings['seed']}" if len(row.runs) > 1 else ""
            for name, table in _last(run.path).groupby("plane", sort=False):
                planes.append((f"{row.arm}{seed}: {name}", table))
    return planes


def _last(folder: Path) -> pd.DataFrame:
    file = folder / "planes.csv"
    if not file.is_file():
        raise InputError(
            f"{folder} has no planes.csv; evaluation.plane=21 makes a run measure planes"
        )
    try:
        table = read_table(file, PLANES)
    except ValueError as error:
        raise InputError(f"{file} cannot be read: {error}") from None
    if table.empty:
        raise InputError(f"{file}: no plane has been measured yet")
    last: pd.DataFrame = table[table["round"] == table["round"].max()]
    return last.fillna({"corner": ""})


@styled({"axes.grid": False})
def maps(planes: Sequence[tuple[str, pd.DataFrame]]) -> Figure:
    """Return a figure with a contour map of test accuracy for each plane, its corners marked.

    Args:
        planes: title and table of each, with columns `corner` ("" on the grid), `x`, `y` and
            `accuracy`.
    """
    figure, panels = grid(len(planes), 0.6 + 1.9 * max(_slope(table) for _, table in planes), False)
    figure.set_figheight(figure.get_figheight() + 0.6)  # for the colour bar
    best = max(float(table["accuracy"].max()) for _, table in planes)
    for panel, (title, table) in zip(panels, planes, strict=True):
        contours = _plot(panel, table, best)
        panel.set_title(textwrap.fill(title, MAX_TITLE))
    figure.supxlabel("distance in weight space", fontsize="medium")
    figure.colorbar(
        contours, ax=panels, label="test accuracy", location="top", shrink=0.6, aspect=40
    )
    return figure


def _slope(table: pd.DataFrame) -> float:
    """Return how high a plane is for its width."""
    return float(np.ptp(table["y"]) / np.ptp(table["x"]))


def _plot(panel: Axes, table: pd.DataFrame, best: float) -> QuadContourSet:
    corners, points = table[table["corner"] != ""], table[table["corner"] == ""]
    grid = points.pivot(index="y", columns="x", values="accuracy")
    levels = [STEP * level for level in range(ceil(best / STEP) + 1)]
    contours = panel.contourf(grid.columns, grid.index, grid, levels=levels, cmap="viridis")
    panel.plot(corners["x"].iloc[:2], corners["y"].iloc[:2], "--", color="white", linewidth=1)
    panel.plot(corners["x"], corners["y"], "o", color="white", markeredgecolor="black")
    box = {"boxstyle": "round,pad=0.2", "color": "white", "alpha": 0.7, "linewidth": 0}
    look: dict[str, Any] = {"textcoords": "offset points", "va": "center", "fontsize": 7}
    for number, (name, x, y) in enumerate(corners[["corner", "x", "y"]].itertuples(index=False)):
        beside, side = ((6, 0), "left") if number else ((-6, 0), "right")
        panel.annotate(name, (x, y), beside, ha=side, bbox=box, **look)
    panel.set(aspect="equal")
    return contours
