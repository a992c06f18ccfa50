"""What the words of a command mean: files, settings, and several values of a setting."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from fedalign.settings.config import Config


ModelName = Annotated[str | None, typer.Option(help="name of the model whose weights they are")]
DataName = Annotated[str | None, typer.Option(help="name of the data set to test them on")]
Jobs = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="number of runs at a time; by default half the cores, or what the cluster has room "
        "for",
    ),
]
Address = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT|auto", help="spread the runs over the nodes of the Ray cluster there"
    ),
]
Out = Annotated[str | None, typer.Option(help="folder for the run folders")]
Again = Annotated[
    bool, typer.Option("--again", help="repeat finished runs whose code or data have changed")
]
Reuse = Annotated[
    bool, typer.Option("--reuse", help="keep finished runs whose code or data have changed")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="list the runs and which are finished; make none")
]


def combined(
    config: str, overrides: list[str], out: str | None, trackers: list[str] | None = None
) -> list[Config]:
    """Return a configuration for each combination of the overrides' comma-separated values.

    `partition.alpha=0.1,0.5 seed=0,1,2` is six; those that mean the same are one.
    """
    from fedalign.settings.config import read
    from fedalign.settings.sources import combinations, parse_choices

    fixed: dict[str, object] = {} if out is None else {"out": out}
    fixed |= {"trackers": trackers} if trackers else {}
    every = [read(config, chosen | fixed) for chosen in combinations(parse_choices(overrides))]
    found = list({repr(own.model_dump()): own for own in every}.values())
    if any(own.stop_when or own.patience or own.keep_best for own in found):
        from fedalign.runs.stopping import check_metrics  # imports torch

        for own in found:
            check_metrics(own)
    return found


def is_file(word: str) -> bool:
    """Return whether a word names a file, even one with an equals sign, and not a setting."""
    return "=" not in word or word.endswith(".safetensors") or Path(word).exists()
