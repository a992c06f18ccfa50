"""The figures of runs as Python and trackers ask for them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from importlib import import_module

from matplotlib.figure import Figure

from fedalign.errors import InputError
from fedalign.report.drawing import KINDS, draw
from fedalign.report.reading import Run
from fedalign.runs.paths import FINISHED
from fedalign.runs.split import FILE


def figure(
    kind: str,
    runs: Sequence[Run],
    by: str | Sequence[str] = (),
    metric: str | None = None,
    at: str = "last5",
    baseline: str | None = None,
) -> Figure:
    """Return a figure of runs; a notebook shows it, and `savefig` writes it.

    Args:
        kind: `curves`, `bytes`, `barriers`, `differences`, `lines`, `planes`, `clients`,
            `fusions`, `gain`, `tasks` or `partition`.
        runs: finished runs.
        by: settings that make the arms, such as `strategy` or `partition.alpha`; none: those in
            which runs differ.
        metric: a column of `metrics.csv`, or `bytes`; None: the kind's own.
        at: rounds that count, in `differences`.
        baseline: the arm that is black, and that others are compared with; None: the first.

    Raises:
        InputError: there is no such kind, or the runs have not measured what it shows.
    """
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:  # as importing pyplot does, which our figures need not
        import_module("IPython.core.pylabtools").select_figure_formats(shell, {"png"})
    return draw(kind, runs, by, metric, at, baseline)[0]


def figure_of(run: Run, kind: str, metric: str | None = None) -> Figure:
    """Return a figure of one run, which may not have finished; see `figure`."""
    return figure(kind, [replace(run, status=FINISHED)], metric=metric)


def figures(run: Run) -> dict[str, Figure]:
    """Return all figures for which a run has measured something, by name."""
    found = {}
    for kind in KINDS:
        if kind != "partition" or (run.path / FILE).is_file():  # else only the nodes know it
            with suppress(InputError):
                found[kind] = figure_of(run, kind)
    return found
