"""Commands that compare runs: `compare`, `figure`.

Each command imports what it needs when it runs, so that `--help` does not wait for torch.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fedalign.console import guarded

if TYPE_CHECKING:
    from fedalign.report.reading import Run

Runs = Annotated[list[Path], typer.Argument(help="run folders, or folders that hold some")]
By = Annotated[
    str | None,
    typer.Option(
        help="settings that make the arms, such as strategy,partition.alpha; by default those in "
        "which runs differ, except the seed"
    ),
]
Metric = Annotated[str, typer.Option(help="column of metrics.csv, or bytes (down and up)")]
At = Annotated[
    str,
    typer.Option(
        help="rounds that count: last5 (or another number), best, final, round=N, mean, sum, area"
    ),
]
Baseline = Annotated[
    str | None,
    typer.Option(help="arm, or one of its settings, that others are compared with; or the first"),
]


def compare(
    runs: Runs,
    by: By = None,
    metric: Metric = "test_accuracy",
    at: At = "last5",
    baseline: Baseline = None,
    target: Annotated[
        float | None,
        typer.Option(help="value of the metric; say after which rounds and bytes it is reached"),
    ] = None,
    form: Annotated[
        Literal["text", "markdown", "latex", "csv", "csv-long"] | None,
        typer.Option("--format", help="of what is printed or written; csv-long: a row a run"),
    ] = None,
    out: Annotated[
        list[Path] | None,
        typer.Option(
            help="file for the table: .txt, .md, .tex, .csv or .long.csv; may be repeated"
        ),
    ] = None,
) -> None:
    """Compare runs: mean and deviation over seeds, and differences from a baseline.

    Differences are paired by seed, with 95 % intervals and p corrected by Holm's method. Notes say
    how numbers came about, what else differs, and which runs are left out.
    """
    with guarded():
        from fedalign.report.comparison import compare as compared
        from fedalign.report.formats import Shown, format_of

        files = [(file, form or format_of(file)) for file in out or ()]
        found, repeated = _read(runs)
        comparison = compared(found, _words(by), metric, at, baseline)
        shown = Shown(comparison, target, shlex.join(["fedalign", *sys.argv[1:]]))
        for file, kind in files:
            shown.write(file, kind)
        printed = "text" if files or form is None else form
        print(shown.text(printed), end="")
        for line in [*repeated, *(shown.notes() if printed.startswith("csv") else ())]:
            print(line, file=sys.stderr)
        for file, _ in files:
            print(f"table in {file}")


def _words(text: str | None) -> list[str]:
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def _read(folders: list[Path]) -> tuple[list[Run], list[str]]:
    """Return the runs in these folders, and lines on those that were given more than once."""
    from fedalign.report.reading import distinct, held, read_runs

    once, repeated = distinct([run for folder in folders for run in held(folder)])
    return read_runs(once), repeated


def figure(
    kind: Annotated[
        str,
        typer.Argument(
            help="curves, bytes, barriers, differences, lines, planes, clients, fusions, gain, "
            "tasks or partition"
        ),
    ],
    runs: Runs,
    out: Annotated[
        list[Path], typer.Option(help="file for the figure: .pdf, .png or .svg; may be repeated")
    ],
    by: By = None,
    metric: Annotated[
        str | None, typer.Option(help="column of metrics.csv, or bytes; by default as KIND says")
    ] = None,
    at: At = "last5",
    baseline: Baseline = None,
    style: Annotated[
        bool, typer.Option(help="fedalign's own style; without it, your matplotlibrc's")
    ] = True,
) -> None:
    """Draw runs, as wide as a column of a paper (3.3 in), or a page if there are several panels.

    curves, bytes: a metric over rounds, or over the bytes sent; bands are one standard deviation
    over seeds. barriers: the same of the barrier between clients. differences: from the baseline,
    with 95 % intervals. lines: heat map of accuracy between two clients, round by round. planes:
    maps through two clients' models and their start. clients: accuracy of each client. fusions:
    ingredients and fusions, on clean and corrupted images. gain: of fusing, by the barrier between
    clients. tasks: accuracy on seen and unseen tasks over rounds. partition: which client has what.
    """
    with guarded():
        from contextlib import nullcontext

        from fedalign.report.drawing import draw
        from fedalign.report.style import check_file, plain, save

        for file in out:
            check_file(file)
        found, repeated = _read(runs)
        with nullcontext() if style else plain():
            drawn, comparison = draw(kind, found, _words(by), metric, at, baseline)
            save(drawn, *out)
        for line in [*repeated, *comparison.notes]:
            print(line)
        for file in out:
            print(f"figure in {file}")
