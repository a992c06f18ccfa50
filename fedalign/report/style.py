"""How all figures look: fonts, colours that the colour-blind can tell apart, dashes and markers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from fedalign.errors import InputError
from fedalign.files import reporting

STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "legend.fontsize": 7.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "lines.linewidth": 1.4,
    "lines.markersize": 3.5,
    "savefig.dpi": 200,
}
FONTS: dict[Any, Any] = {"pdf.fonttype": 42, "ps.fonttype": 42}  # text in PDF stays text
FORMATS = (".png", ".pdf", ".svg")
COLUMN, PAGE = 3.3, 6.9  # inches: a column of a paper, and both
BLACK = "#000000"
# Okabe and Ito's colour-blind safe palette. Dashes and markers go round with other lengths, so that
# arms can be told apart without colours.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#8C6D46")
DASHES = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1, 1, 1)), (0, (8, 2)))
MARKERS = ("o", "s", "^", "D", "v", "P")
Looks = Mapping[str, dict[str, Any]]  # colour, dashes and marker of each arm

_ours = ContextVar("ours", default=True)


@contextmanager
def styled(more: Mapping[Any, Any] | None = None) -> Iterator[None]:
    """Draw in fedalign's style, or under `plain` in that of the user's `matplotlibrc`.

    Args:
        more: parameters of matplotlib that a figure needs whatever the style.
    """
    with mpl.rc_context((STYLE if _ours.get() else {}) | dict(more or {})):
        yield


@contextmanager
def plain() -> Iterator[None]:
    """Leave fonts, lines and colours of figures to the user's own `matplotlibrc`."""
    token = _ours.set(False)
    try:
        yield
    finally:
        _ours.reset(token)


def looks_of(arms: Sequence[str], baseline: str | None) -> Looks:
    """Return colour, dashes and marker of each arm, in order of the arms; the baseline is black."""
    names = list(dict.fromkeys(arms))
    others = [arm for arm in names if arm != baseline]
    colours = COLOURS if _ours.get() else mpl.rcParams["axes.prop_cycle"].by_key()["color"]
    looks = {
        arm: {
            "color": colours[i % len(colours)],
            "linestyle": DASHES[(i + 1) % len(DASHES)],
            "marker": MARKERS[(i + 1) % len(MARKERS)],
        }
        for i, arm in enumerate(others)
    }
    black = {"color": BLACK, "linestyle": "-", "marker": MARKERS[0], "zorder": 3}
    return {arm: looks.get(arm, black) for arm in names}


def save(figure: Figure, *paths: Path) -> None:
    """Write a figure to files; their suffixes say in which format.

    Raises:
        InputError: a suffix is of no format, or a file's folder does not exist.
        FedalignError: a file cannot be written.
    """
    for path in paths:
        check_file(path)
        with reporting(path), styled(FONTS):
            figure.savefig(path)


def check_file(path: Path) -> None:
    """Raise `InputError` if a file's name asks for no format, or its folder does not exist."""
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"{str(path)!r}: a figure's file must end in {', '.join(FORMATS)}")
    if not path.parent.is_dir():
        raise InputError(f"{str(path)!r}: {str(path.parent)!r} is not a folder")


def layout() -> ConstrainedLayoutEngine:
    """Return a constrained layout with padding, so that panels do not touch."""
    return ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.06)  # inches
