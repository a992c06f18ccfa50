"""Commands that look at what runs have left: `report`, `connect`.

Each command imports what it needs when it runs, so that `--help` does not wait for torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedalign.commands.choices import DataName, ModelName, is_file
from fedalign.console import guarded
from fedalign.errors import InputError


def report(
    runs: Annotated[list[Path], typer.Argument(help="run folders, or folders that hold some")],
    figure: Annotated[
        Path | None, typer.Option(help="PNG or PDF file for curves over rounds")
    ] = None,
    plane: Annotated[
        Path | None, typer.Option(help="PNG or PDF file for planes (see evaluation.plane)")
    ] = None,
    page: Annotated[
        Path | None, typer.Option(help="HTML file for the page; by default report.html here")
    ] = None,
    no_page: Annotated[bool, typer.Option("--no-page", help="write no page")] = False,
) -> None:
    """Print a table of runs, averaged over seeds, and write a page that shows all about them.

    The page is one HTML file: curves to zoom into, lines and planes between models, what each
    client has and how it fared, cost, settings. It needs no network.

    A row is named by the settings in which runs differ; of many, the common values are left out and
    stated below. Runs that have not finished, copies, and runs in which clients failed are named.
    """
    with guarded():
        from fedalign.report.figures import over_rounds
        from fedalign.report.page.page import target, write
        from fedalign.report.reading import distinct, held, read_runs
        from fedalign.report.soups import describe
        from fedalign.report.style import save
        from fedalign.report.tables import common_settings, groups, remarks, table

        written = target(page, no_page)
        folders, repeated = distinct([run for folder in runs for run in held(folder)])
        found = read_runs(folders)
        rows = groups(found)
        print(table(rows))
        if fused := describe(rows):
            print(f"\n{fused}\n")
        for line in (*common_settings(found), *repeated, *remarks(found, rows)):
            print(line)
        if figure is not None:
            save(over_rounds(rows), figure)
            print(f"figure in {figure}")
        if plane is not None:
            from fedalign.report.planes import maps, planes_of

            save(maps(planes_of(rows)), plane)
            print(f"planes in {plane}")
        if written is not None:
            write(found, written, repeated)
            print(f"page in {written}")


def connect(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="A.safetensors B.safetensors... [KEY=VALUE]...",
            help="two or more models, then settings",
        ),
    ],
    config: Annotated[
        str | None,
        typer.Option(
            help="configuration of the models; if not given, config.yaml in the folder of the "
            "first one"
        ),
    ] = None,
    model: ModelName = None,
    data: DataName = None,
    out: Annotated[Path, typer.Option(help="folder for curves, barriers and figures")] = Path(
        "connection"
    ),
) -> None:
    """Measure loss and accuracy on the lines between models, wherever they were trained.

    Prints the barriers of every pair, before and after their neurons are matched.
    """
    with guarded():
        from fedalign.landscape.connect import connect, how
        from fedalign.report.connection import describe, write

        if out.exists() and not out.is_dir():
            raise InputError(f"--out: {out} is a file, not a folder")
        models = [Path(word) for word in files if is_file(word)]
        words = [word for word in files if not is_file(word)]
        planned = how(models, words, config, {"model": model, "data": data})
        connection = connect(models, planned)
        print(describe(connection, planned.evaluation.match != "none"))
        write(connection, out)
        print(f"\ncurves, barriers and figures in {out}")
