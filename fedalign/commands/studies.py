"""Commands that make and compare many runs: `sweep`, `reproduce`.

Each command imports what it needs when it runs, so that `--help` does not wait for torch.
"""

from __future__ import annotations

from typing import Annotated

import typer

from fedalign.commands.choices import Address, Again, DryRun, Jobs, Out, Reuse
from fedalign.console import Overrides, Trackers, guarded
from fedalign.settings import completion


def sweep(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="YAML file with a block `sweep`, or any configuration",
            autocompletion=completion.studies,
        ),
    ],
    overrides: Overrides = None,
    jobs: Jobs = None,
    address: Address = None,
    out: Out = None,
    again: Again = False,
    reuse: Reuse = False,
    stalled: Annotated[
        float | None,
        typer.Option(
            min=1, metavar="SECONDS", help="give a run up that finishes no round for so long"
        ),
    ] = None,
    trackers: Trackers = None,
    dry_run: DryRun = False,
) -> None:
    """Make all runs of a sweep, then write its table and its figure.

    Settings apply to all runs: `seed=0,1` replaces the file's own seeds, `client.lr=0.01,0.1` adds
    an axis. Finished runs are not repeated, stopped ones go on. A run that fails is named, and the
    others go on; the exit code is then 1.
    """
    with guarded():
        from fedalign.studies import make
        from fedalign.studies.execute import Changed, How

        changed: Changed = "repeat" if again else "reuse" if reuse else "refuse"
        how = How(jobs, out, changed, stalled, trackers or (), address)
        if dry_run:
            make.list_runs(file, overrides or [], how)
        else:
            make.sweep(file, overrides or [], how)
