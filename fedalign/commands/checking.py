"""Commands that look before a run: `validate`, `partition`, `doctor`, `list`.

Each command imports what it needs when it runs, so that `--help` does not wait for torch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedalign.commands.choices import combined
from fedalign.console import ConfigFile, Overrides, guarded

if TYPE_CHECKING:
    from fedalign.settings.config import Config


def validate(config: ConfigFile, overrides: Overrides = None) -> None:
    """Check a configuration, its data and its partition without training, and summarise it."""
    with guarded():
        from fedalign.report.summary import summary

        for planned in combined(config, overrides or [], None):
            print(summary(planned))


def partition(
    config: ConfigFile,
    overrides: Overrides = None,
    out: Annotated[
        Path, typer.Option(help="PNG or PDF file; numbered if there are several")
    ] = Path("partition.png"),
) -> None:
    """Show how the examples are partitioned: statistics and a figure.

    `partition.alpha=0.1,1` shows two partitions.
    """
    with guarded():
        from fedalign.federation.federation import Federation
        from fedalign.report.partition import counts_of, describe, picture
        from fedalign.report.style import save

        several = combined(config, overrides or [], None)
        for number, planned in enumerate(several, 1):
            counts = counts_of(Federation(planned))
            file = out if len(several) == 1 else out.with_stem(f"{out.stem}-{number}")
            save(picture(counts), file)
            print(describe(counts))
            print(f"figure in {file}\n" if number < len(several) else f"figure in {file}")


def doctor(
    config: ConfigFile,
    overrides: Overrides = None,
    twice: Annotated[
        bool,
        typer.Option("--twice", help="run two rounds twice, and name the first thing that differs"),
    ] = False,
) -> None:
    """Tell how a configuration would run on this machine: workers, stack, cost of a message.

    With `--twice`, whether two rounds repeat: in one process, in another one, and with stacked
    clients; exit code 1 if not.
    """
    with guarded():
        if twice:
            _check_twice(combined(config, overrides or [], None))
            return
        from fedalign.report.doctor import doctor

        for planned in combined(config, overrides or [], None):
            for heading, text in doctor(planned).items():
                print(f"{heading:10}{text}")


def list_parts(
    name: Annotated[str | None, typer.Argument(help="show only this part, in detail")] = None,
) -> None:
    """List the parts that a configuration can name, or show one of them in detail."""
    with guarded():
        from fedalign.report.parts import print_part, print_parts

        print_parts() if name is None else print_part(name)


def _check_twice(several: list[Config]) -> None:
    """Print whether two rounds repeat; exit with code 1 if not."""
    from fedalign.studies.twice import twice

    found = True
    for planned in several:
        for heading, text, same in twice(planned):
            print(f"{heading:10}{text}", flush=True)
            found = found and same
    if not found:
        raise typer.Exit(1)
