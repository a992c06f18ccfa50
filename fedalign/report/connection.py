"""What lies between models from files, as a table, as CSV and as a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fedalign.errors import InputError
from fedalign.landscape.barriers import Curve, barriers
from fedalign.landscape.connect import Connection
from fedalign.landscape.planes import rows_of
from fedalign.report.figures import COLOURS, DASHES, STYLE, layout, save
from fedalign.report.planes import maps

SHOWN = {
    "ends_accuracy": "mean accuracy",
    "midpoint_accuracy": "half way",
    "loss_barrier": "loss barrier",
    "accuracy_barrier": "accuracy barrier",
    "instability": "instability (Frankle)",
    "rebasin_barrier": "loss barrier (Git Re-Basin)",
}
KINDS: dict[str, tuple[str, Any]] = {  # by what stands before the colon
    "": ("as they are", DASHES[0]),
    "matched": ("neurons matched", DASHES[1]),
    "repaired": ("REPAIR", DASHES[2]),
    "matched_repaired": ("matched, REPAIR", (0, (5, 1, 1, 1))),
}
PLACES = ["plane", "corner", "x", "y", "loss", "accuracy"]
MOST = 7  # pairs that are told apart by colour; more are drawn thin and alike


UNMATCHED = (
    "neurons not matched: of this model it is not known which can be exchanged; "
    "give its class a method symmetry()"
)


def told(found: Connection, match: bool) -> str:
    """Return the models and the barriers between them as Markdown tables.

    Args:
        found: what was measured.
        match: whether neurons were to be matched; a line says so where they could not be.
    """
    models = [
        [name, str(found.files[name]), f"{loss:.4f}", f"{accuracy:.4f}"]
        for name, (loss, accuracy) in found.points.items()
    ]
    for name, (loss, accuracy) in found.means.items():
        models.append([name, _beside(found.gap(name)[1]), f"{loss:.4f}", f"{accuracy:.4f}"])
    paths = []
    for curve in found.curves:
        numbers = barriers(curve)
        paths.append([curve.path, *(f"{numbers[key]:.4f}" for key in SHOWN)])
    parts = [_markdown(["model", "file", "loss", "accuracy"], models)]
    parts.append(_markdown(["path", *SHOWN.values()], paths))
    parts.append(f"all on {found.examples} test images")
    parts += [UNMATCHED] if match and len(found.means) == 1 else []
    return "\n\n".join(parts)


def write(found: Connection, folder: Path) -> None:
    """Write `landscape.csv`, `barriers.csv`, and the figure as `figure.png` and `figure.pdf`.

    Of a plane, `planes.csv`, `plane.png` and `plane.pdf`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: no folder can be made there: {error.strerror}") from None
    table(found.curves).to_csv(folder / "landscape.csv", index=False)
    rows = [{"path": curve.path} | barriers(curve) for curve in found.curves]
    pd.DataFrame(rows).to_csv(folder / "barriers.csv", index=False)
    save(lines(found.curves), folder / "figure.png", folder / "figure.pdf")
    for own in found.maps:
        places = pd.DataFrame(rows_of(own), columns=PLACES)
        places.to_csv(folder / "planes.csv", index=False)
        save(maps([(own.plane.name, places)]), folder / "plane.png", folder / "plane.pdf")


def table(curves: Sequence[Curve]) -> pd.DataFrame:
    """Return the points of curves: path, alpha, loss, accuracy."""
    parts = [
        pd.DataFrame(
            {"path": c.path, "alpha": c.alphas, "loss": c.losses, "accuracy": c.accuracies}
        )
        for c in curves
    ]
    return pd.concat(parts, ignore_index=True)


@mpl.rc_context(STYLE)
def lines(curves: Sequence[Curve]) -> Figure:
    """Return loss and accuracy along each line: a colour a pair, dashed after matching."""
    pairs = list(dict.fromkeys(_parts(curve)[1] for curve in curves))
    colours = dict(zip(pairs, COLOURS, strict=False)) if len(pairs) <= MOST else {}
    figure = Figure(figsize=(8.6, 3.4), layout=layout())
    left, right = figure.subplots(1, 2)
    for curve in curves:
        look = _look(curve, colours)
        left.plot(curve.alphas, curve.losses, **look)
        right.plot(curve.alphas, curve.accuracies, **look)
    _name(left, curves, "test loss (nats)")
    _name(right, curves, "test accuracy")
    told = colours if len(pairs) > 1 else {}
    handles = {pair: Line2D([], [], color=colour) for pair, colour in told.items()}
    kinds = list(dict.fromkeys(_parts(curve)[0] for curve in curves))
    for label, dash in (KINDS[kind] for kind in kinds if len(kinds) > 1):
        handles[label] = Line2D([], [], color="grey", linestyle=dash)
    if handles:
        figure.legend(handles.values(), handles.keys(), loc="outside right upper")
    return figure


def _look(curve: Curve, colours: dict[str, str]) -> dict[str, Any]:
    kind, pair = _parts(curve)
    look: dict[str, Any] = {"color": colours.get(pair, COLOURS[0]), "linestyle": KINDS[kind][1]}
    return look if colours else look | {"linewidth": 0.8, "alpha": 0.6}


def _parts(curve: Curve) -> tuple[str, str]:
    """Return what was done on a line, and between which models it lies."""
    kind, _, pair = curve.path.rpartition(":")
    return kind, pair


def _name(panel: Axes, curves: Sequence[Curve], label: str) -> None:
    ends = [_parts(curve)[1].split("-") for curve in curves]
    first, last = ({pair[side] for pair in ends} for side in (0, 1))
    alone = len(first) == len(last) == 1
    names = [*first, *last] if alone else ["first", "second"]
    panel.set_xticks([0, 0.25, 0.5, 0.75, 1], labels=[names[0], "¼", "½", "¾", names[1]])
    panel.set(xlabel="place on the line", ylabel=label)


def _beside(gap: float) -> str:
    return f"{abs(gap):.4f} {'below' if gap >= 0 else 'above'} theirs"


def _markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
