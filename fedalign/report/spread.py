"""Draw how accuracy is spread over clients, and how models lie between clients round by round."""

from __future__ import annotations

import textwrap

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fedalign.errors import InputError
from fedalign.report.comparison import Arm, Comparison
from fedalign.report.panels import grid, looks, panels
from fedalign.report.style import styled

MAX_TITLE = 34  # characters in a line above a panel
MAX_TICK = 24  # characters in a line beside an axis


@styled()
def over_clients(found: Comparison) -> Figure:
    """Return a figure of the clients' accuracies in the last round that they measured.

    A box holds the middle half of the clients of all seeds, its line is the median; each point is
    one client.
    """
    several = panels(found)
    shown, most = looks(several), max(len(panel.arms) for panel in several)
    figure, axes = grid(len(several), 0.8 + 0.34 * most)
    for panel, ax in zip(several, axes, strict=True):
        values = [_clients(arm) for arm in panel.arms.values()]
        if not any(map(len, values)):
            raise InputError(
                "no run has clients.csv; evaluation.client_fraction=1 makes clients test"
            )
        line = {"color": "black"}
        ax.boxplot(
            values, orientation="horizontal", widths=0.55, showfliers=False, medianprops=line
        )
        for y, (name, own) in enumerate(zip(panel.arms, values, strict=True), 1):
            shift = np.linspace(-0.22, 0.22, len(own)) if len(own) > 1 else np.zeros(len(own))
            look = {"color": shown[name]["color"], "marker": shown[name]["marker"]}
            ax.plot(own, y + shift, linestyle="", alpha=0.45, markersize=2.5, **look)
        ax.set_yticks(range(1, len(values) + 1), [textwrap.fill(n, MAX_TICK) for n in panel.arms])
        ax.set(title=panel.title)
        ax.grid(visible=False, axis="y")
    axes[0].invert_yaxis()
    figure.supxlabel("accuracy on the client's own test examples", fontsize="medium")
    return figure


def _clients(arm: Arm) -> pd.Series[float]:
    """Return the accuracies of an arm's clients in each run's last round."""
    last = [run.clients[run.clients["round"] == run.clients["round"].max()] for run in arm.runs]
    accuracies: pd.Series[float] = pd.concat(last)["accuracy"].dropna()
    return accuracies


@styled({"axes.grid": False})
def between_clients(found: Comparison, path: str = "clients") -> Figure:
    """Return heat maps of accuracy along the line between two models: round by position.

    Each arm has its own; means over pairs and seeds.

    Args:
        found: the arms.
        path: which lines of `landscape.csv`: `clients`, `global`, `matched`, ….
    """
    tables = {arm.label: _lines(arm, path) for arm in found.arms}
    tables = {name: table for name, table in tables.items() if not table.empty}
    if not tables:
        raise InputError(
            f"path: no run has measured lines {path!r}; see evaluation.alphas and pairs"
        )
    figure, axes = grid(len(tables), 2.0)
    low = min(float(table.to_numpy().min()) for table in tables.values())
    high = max(float(table.to_numpy().max()) for table in tables.values())
    for (name, table), ax in zip(tables.items(), axes, strict=True):
        x, y = _edges(table.columns.to_numpy(float)), _edges(table.index.to_numpy(float))
        drawn = ax.pcolormesh(x, y, table, vmin=low, vmax=high, cmap="viridis", rasterized=True)
        ax.set_title(textwrap.fill(name, MAX_TITLE))
        ax.set_xticks([0, 0.5, 1])
        ax.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    figure.supxlabel("position on the line", fontsize="medium")
    figure.supylabel("round", fontsize="medium")
    figure.colorbar(drawn, ax=axes, label="test accuracy")
    return figure


def _lines(arm: Arm, path: str) -> pd.DataFrame:
    """Return mean accuracy, a row a round, a column a position; empty if nothing was measured."""
    points = pd.concat([run.landscape for run in arm.runs])
    kinds = points["path"].astype(str).str.split(":").str[0]
    return points[kinds == path].pivot_table(index="round", columns="alpha", values="accuracy")


def _edges(centres: np.ndarray) -> np.ndarray:
    """Return the borders between cells with these centres."""
    if len(centres) == 1:
        return np.array([centres[0] - 0.5, centres[0] + 0.5])
    middle = (centres[1:] + centres[:-1]) / 2
    return np.array([2 * centres[0] - middle[0], *middle, 2 * centres[-1] - middle[-1]])
