"""Report what `fedalign connect` measured between models: tables, CSV files and figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from fedalign.errors import InputError
from fedalign.landscape.barriers import Curve, barriers
from fedalign.landscape.connect import Connection
from fedalign.landscape.planes import rows_of
from fedalign.report.planes import maps
from fedalign.report.style import COLOURS, DASHES, layout, save, styled
from fedalign.report.tables import markdown
from fedalign.runs.tables import BARRIERS, LANDSCAPE, PLANES, barriers_row, landscape_rows

SHOWN = {
    "ends_accuracy": "mean accuracy",
    "midpoint_accuracy": "midpoint accuracy",
    "loss_barrier": "loss barrier",
    "accuracy_barrier": "accuracy barrier",
    "instability": "instability (Frankle)",
    "rebasin_barrier": "loss barrier (Git Re-Basin)",
}
KINDS: dict[str, tuple[str, Any]] = {  # label and dashes, by the prefix of the path
    "": ("as they are", DASHES[0]),
    "matched": ("neurons matched", DASHES[1]),
    "repaired": ("REPAIR", DASHES[2]),
    "matched_repaired": ("matched, REPAIR", (0, (5, 1, 1, 1))),
}
MAX_COLOURED = 7  # with more pairs than this, all lines are drawn thin and in one colour
UNMATCHED = (
    "neurons were not matched: this model does not say which of its neurons can be exchanged; "
    "give its class a method symmetry()"
)


def describe(connection: Connection, match: bool) -> str:
    """Return the models and the barriers between them as Markdown tables.

    Args:
        connection: the measurements.
        match: whether neurons should have been matched; a line is added if they could not be.
    """
    models = [
        [name, str(connection.files[name]), f"{loss:.4f}", f"{accuracy:.4f}"]
        for name, (loss, accuracy) in connection.points.items()
    ]
    for name, (loss, accuracy) in connection.means.items():
        gap = _signed(connection.gap(name)[1])
        models.append([name, gap, f"{loss:.4f}", f"{accuracy:.4f}"])
    paths = []
    for curve in connection.curves:
        numbers = barriers(curve)
        paths.append([curve.path, *(f"{numbers[key]:.4f}" for key in SHOWN)])
    parts = [markdown(models, ["model", "file", "loss", "accuracy"])]
    parts.append(markdown(paths, ["path", *SHOWN.values()]))
    parts.append(f"all measured on {connection.examples} test examples")
    parts += [UNMATCHED] if match and len(connection.means) == 1 else []
    return "\n\n".join(parts)


def write(connection: Connection, folder: Path) -> None:
    """Write `landscape.csv` and `barriers.csv`, and the figure as `figure.png` and `figure.pdf`.

    If a plane was measured, also write `planes.csv`, `plane.png` and `plane.pdf`.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"--out: cannot create {folder}: {error.strerror}") from None
    curves = connection.curves
    _write_csv(folder / "landscape.csv", LANDSCAPE, [r for c in curves for r in landscape_rows(c)])
    _write_csv(folder / "barriers.csv", BARRIERS, map(barriers_row, curves))
    save(lines(curves), folder / "figure.png", folder / "figure.pdf")
    for measured in connection.maps:
        points = _write_csv(folder / "planes.csv", PLANES, rows_of(measured))
        save(maps([(measured.plane.name, points)]), folder / "plane.png", folder / "plane.pdf")


@styled()
def lines(curves: Sequence[Curve]) -> Figure:
    """Return a figure of loss and accuracy along each line: a colour a pair, dashed if matched."""
    pairs = list(dict.fromkeys(_parts(curve)[1] for curve in curves))
    colours = dict(zip(pairs, COLOURS, strict=False)) if len(pairs) <= MAX_COLOURED else {}
    figure = Figure(figsize=(8.6, 3.4), layout=layout())
    left, right = figure.subplots(1, 2)
    for curve in curves:
        look = _look(curve, colours)
        left.plot(curve.alphas, curve.losses, **look)
        right.plot(curve.alphas, curve.accuracies, **look)
    _label(left, curves, "test loss (nats)")
    _label(right, curves, "test accuracy")
    labelled = colours if len(pairs) > 1 else {}
    handles = {pair: Line2D([], [], color=colour) for pair, colour in labelled.items()}
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
    """Return the prefix of a curve's path ("" if the models are as they are), and its pair."""
    kind, _, pair = curve.path.rpartition(":")
    return kind, pair


def _label(panel: Axes, curves: Sequence[Curve], label: str) -> None:
    ends = [_parts(curve)[1].split("-") for curve in curves]
    first, last = ({pair[side] for pair in ends} for side in (0, 1))
    single = len(first) == len(last) == 1
    names = [*first, *last] if single else ["first", "second"]
    panel.set_xticks([0, 0.25, 0.5, 0.75, 1], labels=[names[0], "¼", "½", "¾", names[1]])
    panel.set(xlabel="position on the line", ylabel=label)


def _signed(gap: float) -> str:
    side = "below" if gap >= 0 else "above"
    return f"all averaged; accuracy {abs(gap):.4f} {side} the mean of the single models'"


def _write_csv(file: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> pd.DataFrame:
    """Return the rows, written under the columns of a run's table without `round`."""
    table = pd.DataFrame(rows, columns=list(columns[1:]))
    table.to_csv(file, index=False)
    return table
