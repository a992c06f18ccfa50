"""Draw ingredients against fusions, and what fusing gains against the barrier between models."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from fedalign.errors import InputError
from fedalign.report.comparison import Arm, Comparison
from fedalign.report.measures import series
from fedalign.report.panels import grid, legend_above, looks, panels
from fedalign.report.reading import Run
from fedalign.report.soups import BEST, is_ingredient, last
from fedalign.report.style import BLACK, Looks, looks_of, styled

INGREDIENTS = "ingredients"
DOT: dict[str, Any] = {"color": "#9a9a9a", "marker": "o", "linestyle": "", "markersize": 2.5}
WIDE = 0.3  # accuracies that are further apart have a logit scale, so that good ones are apart
TICKS = (0.01, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)
EDGE = 0.0005  # the nearest to 0 and 1 that a logit scale shows
MAX_TITLE = 34  # characters in a line above a panel
NO_MODEL = "ensemble"  # drawn hollow
NOTHING = "no run has fusions.csv; evaluation.fusions=[mean,greedy] makes runs measure fusions"


@styled()
def ingredients_and_fusions(found: Comparison) -> Figure:
    """Return a figure of accuracy on clean and on corrupted test images, a panel an arm.

    Dots are the ingredients of all seeds. Marks are fusions: means over seeds, with one standard
    deviation. Without corrupted images the other axis is the loss on clean ones. Accuracies that
    are far apart have a logit scale.
    """
    tables = {arm.label: _last_rounds(arm) for arm in found.arms}
    tables = {name: table for name, table in tables.items() if not table.empty}
    if not tables:
        raise InputError(NOTHING)
    names = {n for table in tables.values() for n in table.index[~is_ingredient(table)]}
    ordered = [n for n in dict.fromkeys(n for t in tables.values() for n in t.index) if n in names]
    shown = _marks(ordered)
    y = (
        "corrupted_accuracy"
        if all("corrupted_accuracy" in t for t in tables.values())
        else "test_loss"
    )
    together = pd.concat(tables.values())
    wide = [k for k in ("test_accuracy", y) if "accuracy" in k and np.ptp(together[k]) > WIDE]
    figure, axes = grid(len(tables), 2.5)
    for (name, table), ax in zip(tables.items(), axes, strict=True):
        table[wide] = table[wide].clip(EDGE, 1 - EDGE)
        apart = table[is_ingredient(table)]
        ax.plot(apart["test_accuracy"], apart[y], **DOT, alpha=0.8)
        for fusion in (n for n in ordered if n in table.index):
            own = table.loc[[fusion], ["test_accuracy", y]]
            (x_mean, y_mean), spread = own.mean(), own.std().fillna(0)
            look = shown[fusion]
            bars = {"ecolor": look["color"], "elinewidth": 0.7}
            ax.errorbar(x_mean, y_mean, spread[y], spread["test_accuracy"], **look, **bars)
        ax.set_title(textwrap.fill(name, MAX_TITLE) if len(tables) > 1 else "")
    figure.supxlabel("accuracy on clean test images", fontsize="medium")
    told = {"corrupted_accuracy": "accuracy on corrupted ones", "test_loss": "loss on them"}
    figure.supylabel(told[y], fontsize="medium")
    for key, name in {"test_accuracy": "x", y: "y"}.items():
        if key in wide:
            _spread(axes, name, *together[key].agg(["min", "max"]))
    legend_above(figure, {INGREDIENTS: DOT, **shown})
    return figure


@styled()
def gain(found: Comparison) -> Figure:
    """Return a figure of what each fusion gains, by the barrier between ingredients.

    The gain is the test accuracy of the fused model minus the mean of its ingredients; the metric
    of the comparison is the barrier, in the same round. Each mark is a run; a panel a fusion.
    """
    several = panels(found)
    marks = {"linestyle": "", "markersize": 4.5, "mec": "white", "mew": 0.5}
    shown = {name: look | marks for name, look in looks(several).items()}
    names = {name: arm for panel in several for name, arm in panel.arms.items()}
    points = {name: _gains(arm.runs, found.metric) for name, arm in names.items()}
    fusions = list(dict.fromkeys(fusion for own in points.values() for fusion in own))
    if not fusions:
        raise InputError(f"{NOTHING}; {found.metric} must have been measured in the same round")
    figure, axes = grid(len(fusions), 2.2)
    for fusion, ax in zip(fusions, axes, strict=True):
        ax.axhline(0, color=BLACK, linewidth=0.8)
        for name, own in points.items():
            ax.plot(*np.transpose(own.get(fusion, np.empty((0, 2)))), **shown[name])
        ax.set_title(fusion)
        ax.xaxis.set_major_locator(MaxNLocator(3))
    figure.supxlabel(found.metric.replace("_", " "), fontsize="medium")
    figure.supylabel("accuracy minus ingredients' mean", fontsize="medium")
    legend_above(figure, shown)
    return figure


def _spread(axes: Sequence[Axes], name: str, low: float, high: float) -> None:
    """Give one axis of all panels a logit scale, as is usual for accuracies on shifted data."""
    low, high = max(0.8 * low, EDGE / 2), 1 - max(0.7 * (1 - high), EDGE / 2)
    for ax in axes:
        ax.set(**{f"{name}scale": "logit", f"{name}lim": (low, high)})
        axis = ax.xaxis if name == "x" else ax.yaxis
        axis.set_major_locator(FixedLocator([tick for tick in TICKS if low <= tick <= high]))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())


def _last_rounds(arm: Arm) -> pd.DataFrame:
    """Return the last measured rounds of all of an arm's runs, by name."""
    return pd.concat([last(run) for run in arm.runs])


def _marks(names: Sequence[str]) -> Looks:
    """Return how each fusion looks."""
    more = {"linestyle": "", "markersize": 5.5, "markeredgecolor": "white", "markeredgewidth": 0.6}
    shown = {name: own | more for name, own in looks_of(names, None).items()}
    hollow = {"markerfacecolor": "white", "markeredgewidth": 1.0}
    return {
        name: own | hollow | {"markeredgecolor": own["color"]} if _is_no_model(name) else own
        for name, own in shown.items()
    }


def _is_no_model(fusion: str) -> bool:
    return fusion.startswith(NO_MODEL)


def _gains(runs: Sequence[Run], metric: str) -> dict[str, list[tuple[float, float]]]:
    """Return barrier and gain of each run, by fusion."""
    found: dict[str, list[tuple[float, float]]] = {}
    for run in runs:
        table, barriers = last(run), series(run, metric)
        if table.empty or not (barrier := barriers.get(table["round"].iloc[0], np.nan)) >= 0:
            continue
        mean = table.loc[is_ingredient(table), "test_accuracy"].mean()
        for fusion, accuracy in table.loc[~is_ingredient(table), "test_accuracy"].items():
            name = str(fusion)
            if name.partition("-")[0] != BEST and not _is_no_model(name):
                found.setdefault(name, []).append((barrier, accuracy - mean))
    return found
