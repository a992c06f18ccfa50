"""The map of a plane through three models."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from pathlib import Path

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.contour import QuadContourSet
from matplotlib.figure import Figure

from fedalign.errors import InputError
from fedalign.report.figures import STYLE
from fedalign.report.tables import Row

COLUMNS = 3  # of panels
STEP = 0.05  # of accuracy, from one colour to the next


def planes_of(rows: Sequence[Row]) -> list[tuple[str, pd.DataFrame]]:
    """Return the planes of each run's last measured round, each with its title.

    Raises:
        InputError: a run has measured none.
    """
    found = []
    for row in rows:
        for run in row.runs:
            seed = f", seed {run.settings['seed']}" if len(row.runs) > 1 else ""
            for name, own in _last(run.path).groupby("plane", sort=False):
                found.append((f"{row.arm}{seed}: {name}", own))
    return found


def _last(folder: Path) -> pd.DataFrame:
    file = folder / "planes.csv"
    if not file.is_file():
        raise InputError(
            f"{folder} has no planes.csv; planes are measured with evaluation.plane=21"
        )
    found = pd.read_csv(file, keep_default_na=False, na_values={"loss": [""]})
    last: pd.DataFrame = found[found["round"] == found["round"].max()]
    return last


@mpl.rc_context(STYLE | {"axes.grid": False})
def maps(planes: Sequence[tuple[str, pd.DataFrame]]) -> Figure:
    """Return test accuracy in each plane, a panel each under its title, corners marked.

    Args:
        planes: with the columns `corner` ("" on the grid), `x`, `y` and `accuracy`.
    """
    columns = min(COLUMNS, len(planes))
    rows = ceil(len(planes) / columns)
    figure = Figure(figsize=(4.2 * columns + 0.8, 3.8 * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    best = max(float(own["accuracy"].max()) for _, own in planes)
    for panel, (title, own) in zip(panels, planes, strict=False):
        shown = _plot(panel, own, best)
        panel.set_title(title, fontsize=9)
    for panel in panels[len(planes) :]:
        panel.set_visible(False)
    figure.colorbar(shown, ax=list(panels[: len(planes)]), label="test accuracy", shrink=0.8)
    return figure


def _plot(panel: Axes, own: pd.DataFrame, best: float) -> QuadContourSet:
    corners, grid = own[own["corner"] != ""], own[own["corner"] == ""]
    table = grid.pivot(index="y", columns="x", values="accuracy")
    levels = [STEP * level for level in range(ceil(best / STEP) + 1)]
    shown = panel.contourf(table.columns, table.index, table, levels=levels, cmap="viridis")
    panel.plot(corners["x"].iloc[:2], corners["y"].iloc[:2], "--", color="white", linewidth=1)
    panel.plot(corners["x"], corners["y"], "o", color="white", markeredgecolor="black")
    for name, x, y in corners[["corner", "x", "y"]].itertuples(index=False):
        box = {"boxstyle": "round,pad=0.2", "color": "white", "alpha": 0.7, "linewidth": 0}
        panel.annotate(
            name, (x, y), (0, 8), textcoords="offset points", ha="center", fontsize=8, bbox=box
        )
    panel.set(aspect="equal", xlabel="distance in weight space")
    return shown
