"""Commands that compare many runs: `reproduce`.

Each command imports what it needs when it runs, so that `--help` does not wait for torch.
"""

from __future__ import annotations

from typing import Annotated

import typer

from fedalign.console import Overrides, guarded


def reproduce(
    study: Annotated[
        str, typer.Argument(metavar="NAME", help="YAML file, or its name in configs/studies/")
    ],
    overrides: Overrides = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="number of runs at a time; by default half the cores")
    ] = None,
    out: Annotated[str | None, typer.Option(help="folder for the run folders")] = None,
    again: Annotated[
        bool, typer.Option("--again", help="repeat finished runs whose code or data have changed")
    ] = False,
    reuse: Annotated[bool, typer.Option("--reuse", help="keep their results")] = False,
) -> None:
    """Run all unfinished runs of a study, then write its table and its figure.

    Settings apply to all runs; `seed=0,1` replaces the study's own seeds.
    """
    with guarded():
        from fedalign.studies.reproduce import Changed, reproduce

        changed: Changed = "repeat" if again else "reuse" if reuse else "refuse"
        reproduce(study, overrides or [], jobs, out, changed)
