"""Commands that train: `run`.

Each command imports what it needs when it runs, so that `--help` does not wait for torch.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from fedalign.commands.choices import Address, DryRun, Out, Reuse, combined
from fedalign.console import ConfigFile, Overrides, Trackers, Verbose, guarded


def run(
    config: ConfigFile,
    overrides: Overrides = None,
    out: Out = None,
    again: Annotated[bool, typer.Option("--again", help="repeat finished runs")] = False,
    reuse: Reuse = False,
    trackers: Trackers = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1, help="number of runs at a time; by default one, or what the cluster has room for"
        ),
    ] = None,
    address: Address = None,
    dry_run: DryRun = False,
    verbose: Verbose = False,
) -> None:
    """Run a federation, or several: `partition.alpha=0.1,0.5 seed=0,1,2` makes six runs.

    A finished run is not repeated; a stopped one continues from its last checkpoint. With `--again`
    both start from the first round. If the code of your parts, the data or fedalign's version have
    changed since a run finished, nothing starts until you give `--again` or `--reuse`.
    """
    with guarded(verbose):
        from fedalign.runs.identity import refuse_changed
        from fedalign.runs.launch import launch
        from fedalign.runs.models import missing_models
        from fedalign.runs.paths import folder_of, limping
        from fedalign.server.participation import LimpingRunError

        several, limped = combined(config, overrides or [], out, trackers or []), False
        if dry_run or jobs or address:
            from fedalign.studies import make

            changed: make.Changed = "all" if again else "reuse" if reuse else "refuse"
            how = make.How(jobs, changed=changed, address=address)
            make.several(several, how, dry_run, overrides or [])
            return
        if not again and not reuse:
            refuse_changed(several)
        for planned in several:
            try:
                ran = launch(planned, again)
            except LimpingRunError as error:  # it has finished, and others may do better
                print(f"error: {error}", file=sys.stderr)
                limped = True
                continue
            if not ran:
                print(f"{folder_of(planned)} is finished already; use --again to repeat it")
                if lacking := missing_models(planned):
                    print(f"{lacking}; --again repeats the run and keeps them")
                if line := limping(folder_of(planned)):
                    print(line, file=sys.stderr)
                    limped = True
        if limped:
            raise SystemExit(LimpingRunError.exit_code)
