"""The panels of a figure of a comparison, as wide as a column of a paper, and their legend."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fedalign.report.comparison import Arm, Comparison
from fedalign.report.labels import label, varied
from fedalign.report.style import COLUMN, PAGE, Looks, layout, looks_of

MAX_COLUMNS = 3  # panels side by side on a page
MAX_NAME = 44  # characters in a line of the legend


@dataclass(frozen=True)
class Panel:
    """Arms that are drawn together, since they have one baseline.

    Attributes:
        title: the settings in which the baselines of the panels differ; "" for the only panel.
        arms: by their label without those settings.
        baseline: the label among these of the one that others are compared with; None without.
    """

    title: str
    arms: Mapping[str, Arm]
    baseline: str | None


def panels(found: Comparison) -> list[Panel]:
    """Return a panel for each baseline of a comparison, and one for arms without any."""
    labelled = {arm.label: arm for arm in found.arms}
    bases = list(dict.fromkeys(found.baselines))
    titles = dict(
        zip(bases, varied([labelled[b].settings if b else {} for b in bases]), strict=True)
    )
    grouped = []
    for base, title in titles.items():
        arms, own = {}, None
        for arm, other in zip(found.arms, found.baselines, strict=True):
            if other == base:
                rest = {k: v for k, v in arm.settings.items() if k not in title}
                name = arm.label if len(bases) == 1 or base is None else label(rest) or arm.label
                arms[name], own = arm, name if arm.label == base else own
        grouped.append(Panel(label(title) or ("" if base else "no baseline"), arms, own))
    return grouped


def looks(several: Sequence[Panel]) -> Looks:
    """Return how each arm looks, the same in all panels; baselines are black."""
    names = [name for panel in several for name in panel.arms]
    baseline = next((panel.baseline for panel in several if panel.baseline), None)
    return looks_of(names, baseline if len(set(names)) > 1 else None)


def grid(count: int, height: float = 2.2, share: bool = True) -> tuple[Figure, list[Axes]]:
    """Return a figure with so many panels: one is as wide as a column, more take a page's width.

    Args:
        count: number of panels.
        height: of each, in inches.
        share: whether they have the same axes.
    """
    columns = min(count, MAX_COLUMNS) if count != 4 else 2
    rows = ceil(count / columns)
    size = (COLUMN if count == 1 else PAGE, height * rows)
    figure = Figure(figsize=size, layout=layout())
    axes = figure.subplots(rows, columns, squeeze=False, sharex=share, sharey=share).ravel()
    for unused in axes[count:]:
        unused.set_visible(False)
    for above in axes[max(count - columns, 0) : count]:
        above.xaxis.set_tick_params(labelbottom=True)
    return figure, list(axes[:count])


def legend_above(figure: Figure, shown: Looks) -> None:
    """Draw the legend of all arms above the panels, and make the figure higher by it."""
    if len(shown) < 2:
        return
    handles = [Line2D([], [], **look) for look in shown.values()]
    names = [textwrap.fill(arm, MAX_NAME) for arm in shown]
    width, height = figure.get_size_inches()
    for columns in range(min(len(names), 6), 0, -1):
        drawn = figure.legend(handles, names, loc="outside upper center", ncols=columns)
        box = drawn.get_window_extent()
        if box.width <= width * figure.dpi or columns == 1:
            break
        drawn.remove()
    figure.set_size_inches(width, height + box.height / figure.dpi)
