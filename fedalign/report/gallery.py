"""The figures of one run, by name."""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module

from matplotlib.figure import Figure

from fedalign.errors import InputError, nearest
from fedalign.federation.federation import Federation
from fedalign.report.figures import over_rounds
from fedalign.report.models import config_of
from fedalign.report.partition import counts_of, picture
from fedalign.report.planes import maps, planes_of
from fedalign.report.reading import Run
from fedalign.report.tables import groups
from fedalign.runs.split import FILE


def _partition(run: Run) -> Figure:
    if not any((run.path / name).is_file() for name in (FILE, "partition.png")):
        raise InputError(f"{run.path}: only its nodes know who has which examples")
    return picture(counts_of(Federation(config_of(run))))


KINDS: dict[str, Callable[[Run], Figure]] = {
    "rounds": lambda run: over_rounds(groups([run])),
    "planes": lambda run: maps(planes_of(groups([run]))),
    "partition": _partition,
}


def figure(run: Run, kind: str) -> Figure:
    """Return a figure of a run.

    Raises:
        InputError: there is no such kind, or the run has not measured what it shows.
    """
    if kind not in KINDS:
        raise InputError(f"{kind!r} is not a figure{nearest(kind, KINDS)}")
    _let_notebooks_show_figures()
    return KINDS[kind](run)


def _let_notebooks_show_figures() -> None:
    """Do what importing pyplot does in a notebook, which our figures need none of."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        import_module("IPython.core.pylabtools").select_figure_formats(shell, {"png"})


def figures(run: Run) -> dict[str, Figure]:
    """Return all figures for which a run has measured something, by name."""
    found = {}
    for kind, draw in KINDS.items():
        with suppress(InputError):
            found[kind] = draw(run)
    return found
