"""Draw how far each arm of a study is from the baseline."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedalign.report.figures import BLACK, COLOURS, STYLE, layout, looks_of
from fedalign.report.labels import label
from fedalign.report.statistics import Difference
from fedalign.report.tables import Row, differences


@mpl.rc_context(STYLE)
def beside_baseline(rows: Sequence[Row], baseline: str) -> Figure:
    """Return a figure of each arm's paired difference in accuracy from the baseline.

    Arms are sorted by their difference, drawn with its 95 % interval; dots are filled where p,
    corrected by Holm's method, is below 0.05. Each choice of the varied settings has its own panel.
    """
    pairs = list(zip(rows, differences(rows, baseline), strict=True))
    combinations = list(dict.fromkeys(label(row.varied) for row in rows))
    height = 1.1 + 0.27 * len(looks_of(rows, baseline))
    figure = Figure(figsize=(1.2 + 4.6 * len(combinations), height), layout=layout())
    panels = figure.subplots(1, len(combinations), squeeze=False, sharex=True)[0]
    for combination, panel in zip(combinations, panels, strict=True):
        here = [(row, change) for row, change in pairs if label(row.varied) == combination]
        _plot_differences(panel, here, baseline)
        panel.set_title(combination, loc="left", fontweight="bold")
    xlabel = f"test accuracy minus {baseline}'s: mean and 95 % interval; filled: p < 0.05 (Holm)"
    figure.supxlabel(xlabel, fontsize=9)
    return figure


def _plot_differences(
    panel: Axes, measured: Sequence[tuple[Row, Difference | None]], baseline: str
) -> None:
    """Draw a dot and an interval for each arm, the best on top, and its accuracy at the right."""
    zero = Difference(0.0, 0.0, 0)
    pairs = [(row, change or zero) for row, change in measured if change or row.arm == baseline]
    pairs.sort(key=lambda pair: pair[1].mean)
    panel.axvline(0, color=BLACK, linewidth=1)
    for y, (row, change) in enumerate(pairs):
        is_baseline = row.arm == baseline
        colour = BLACK if is_baseline else COLOURS[0] if change.mean > 0 else COLOURS[1]
        half = np.nan_to_num(change.half_width)
        panel.plot([change.mean - half, change.mean + half], [y] * 2, color=colour)
        face = colour if is_baseline or change.significant else "white"
        marker = "D" if is_baseline else "o"
        panel.plot(change.mean, y, marker, color=colour, mfc=face, markersize=6)
    panel.set_yticks(range(len(pairs)), [row.arm for row, _ in pairs])
    panel.set_ylim(-0.7, len(pairs) - 0.3)
    panel.grid(visible=False, axis="y")
    right = panel.secondary_yaxis("right")
    accuracies = [np.mean(list(row.by_seed("accuracy").values())) for row, _ in pairs]
    right.set_yticks(range(len(pairs)), [f"{accuracy:.3f}" for accuracy in accuracies])
    right.tick_params(length=0, labelcolor="#555555")
    right.spines["right"].set_visible(False)
