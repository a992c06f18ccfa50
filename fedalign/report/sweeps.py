"""Draw a study's measurements over one varied setting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fedalign.report.figures import legend, strips
from fedalign.report.labels import short
from fedalign.report.statistics import deviation
from fedalign.report.style import looks_of, styled
from fedalign.report.tables import COLUMNS, Row, measured

TITLES = {  # title and label by column
    "accuracy": ("Global model", "test accuracy, last 5 rounds"),
    "client_ends_accuracy": ("Clients' models", "test accuracy"),
    "client_midpoint_accuracy": ("Midpoint between two clients", "test accuracy"),
    "client_accuracy_barrier": ("Between two clients", "accuracy barrier"),
    "client_loss_barrier": ("Between two clients", "loss barrier (nats)"),
    "matched_accuracy_barrier": ("After matching neurons", "accuracy barrier"),
    "matched_loss_barrier": ("After matching neurons", "loss barrier (nats)"),
    "repaired_accuracy_barrier": ("After REPAIR", "accuracy barrier"),
    "repaired_loss_barrier": ("After REPAIR", "loss barrier (nats)"),
    "matched_repaired_accuracy_barrier": ("After matching and REPAIR", "accuracy barrier"),
    "matched_repaired_loss_barrier": ("After matching and REPAIR", "loss barrier (nats)"),
    "matching_sweeps": ("Matching neurons", "passes over the layers"),
    "fusion_gap": ("Aggregate vs. its parts", "fusion gap (nats)"),
    "fusion_gap_accuracy": ("Aggregate vs. its parts", "fusion gap (accuracy)"),
    "matched_fusion_gap_accuracy": ("Aggregate vs. its parts, matched", "fusion gap (accuracy)"),
}
USUAL = ("accuracy", "client_accuracy_barrier", "client_loss_barrier", "fusion_gap")
SHIFT = 0.012  # between arms, in units of the x range, so that error bars do not overlap


@styled()
def sweep(
    rows: Sequence[Row],
    x: str,
    baseline: str | None = None,
    panels: Sequence[str] | None = None,
    log: bool = False,
) -> Figure:
    """Return a figure of accuracy and barriers over the varied setting `x`, a line an arm.

    Bars are one sample standard deviation over seeds. An arm without the setting `x`, so the same
    run for all values, is drawn as a horizontal line with a band.

    Args:
        rows: the rows of a study.
        x: the dotted key of the setting on the x axis.
        baseline: the arm that is drawn in black.
        panels: names in `COLUMNS`; None takes the usual ones that were measured.
        log: use a logarithmic x axis.
    """
    shown = [column for column in panels or USUAL if column in measured(rows)]
    shown = [column for column in shown if panels or not _is_zero(rows, column)] or shown
    looks = looks_of([row.arm for row in rows], baseline)
    figure, groups = strips(rows, [x], len(shown))
    for strip, group in groups:
        axes = strip.subplots(1, len(shown), squeeze=False)[0]
        for column, panel in zip(shown, axes, strict=True):
            for arm, look in looks.items():
                shift = SHIFT * (list(looks).index(arm) - (len(looks) - 1) / 2)
                of_arm = [row for row in group if row.arm == arm]
                _plot_sweep(panel, of_arm, x, column, look, 0.0 if log else shift)
            title, ylabel = TITLES.get(column, ("", COLUMNS[column].heading))
            panel.set(title=title, xlabel=short(x, [x]).replace("_", " "), ylabel=ylabel)
            if log:
                _log_ticks(panel, [row.varied[x] for row in group])
    legend(figure, looks)
    return figure


def _is_zero(rows: Sequence[Row], column: str) -> bool:
    """Return whether a column is 0, up to rounding, in all runs."""
    return all(abs(v) < 1e-9 for row in rows for v in row.by_seed(column).values())


def _plot_sweep(
    panel: Axes, rows: Sequence[Row], x: str, column: str, look: dict[str, Any], shift: float
) -> None:
    """Draw one arm's mean and deviation at each value of x, shifted so that arms do not overlap."""
    values = [list(row.by_seed(column).values()) for row in rows]
    means, spreads = [float(np.mean(v)) for v in values], [deviation(v) for v in values]
    if len(rows) > 1 and len({tuple(run.path for run in row.runs) for row in rows}) == 1:
        panel.axhline(means[0], **look | {"linewidth": 1.2, "marker": ""})
        if len(values[0]) > 1:
            band = means[0] - spreads[0], means[0] + spreads[0]
            panel.axhspan(*band, color=look["color"], alpha=0.08, linewidth=0)
    elif rows:
        values_of_x = [row.varied[x] for row in rows]
        span = max(values_of_x) - min(values_of_x)
        panel.errorbar(
            [v + shift * span for v in values_of_x],
            means,
            spreads,
            markersize=3.5,
            capsize=2,
            **look,
        )


def _log_ticks(panel: Axes, values: Sequence[float]) -> None:
    """Use a logarithmic x axis with ticks at the measured values only."""
    panel.set_xscale("log")
    ticks = sorted(set(values))
    panel.set_xticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    panel.minorticks_off()
