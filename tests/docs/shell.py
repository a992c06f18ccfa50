"""Commands as pages show them: whether they are right, and what they do in small."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import typer
from typer.testing import CliRunner

from fedalign.cli import app
from fedalign.commands.choices import combined
from fedalign.report import lookup
from fedalign.settings import registry
from fedalign.settings.config import Config
from fedalign.studies.plan import plan
from fedalign.studies.sweep import read_sweep
from tests.docs.blocks import Block

EMBEDDED = ("digits", "shakespeare-excerpt", "folder")
RUNS = ("strategy=fedavg,fedpfn", "seed=0,1")  # for pages that begin where there are some
Command = tuple[click.Command, click.Context]


def parsed(words: Sequence[str], *, resilient: bool = False) -> Command:
    """Return a command of fedalign and its context; raises `click.UsageError` if it is wrong."""
    command, rest = typer.main.get_command(app), list(words[1:])
    context, name = click.Context(command, info_name=words[0]), words[0]
    while isinstance(command, click.Group):
        found, command, rest = command.resolve_command(context, rest)
        assert command is not None, words
        name = f"{name} {found}"
    with command.make_context(name, rest, parent=context, resilient_parsing=resilient) as made:
        return command, made


def resolve(context: click.Context) -> list[Config]:
    """Return the configurations that a command means; raises `InputError` for a wrong setting."""
    given = context.params
    if given.get("name"):  # of `fedalign list`
        lookup.show(given["name"])
    if "stalled" in given:  # of a sweep
        return [run.config for run in plan(read_sweep(given["file"]), given["overrides"] or [])]
    known = {"config", "overrides"} <= given.keys() and given["config"]
    return combined(given["config"], given["overrides"] or [], None) if known else []


def help_of_fedalign() -> str:
    """Return what `fedalign --help` prints."""
    return CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output


def smaller(config: Config) -> list[str]:
    """Return settings that make a run take a second or two."""
    name = config.data.name
    own, epochs = ":" in name or name in ("folder", "texts"), config.client.options.get("epochs", 0)
    return [
        *("rounds=2", "num_clients=4", "evaluation.examples=60", "simulation.backend=inline"),
        *([] if own else ["data.max_examples=300"]),
        *([] if own or name in EMBEDDED else ["data=digits"]),
        *(["clients_per_round=2"] if config.clients_per_round else []),
        *(["client.epochs=2"] if epochs > 2 else []),
    ]


def run(words: Sequence[str]) -> str:
    """Run a command of fedalign in the current folder and in small; returns what it prints."""
    if any(word.startswith("runs") for word in words) and not Path("runs").exists():
        run(["fedalign", "run", "quickstart", *RUNS])
    given = [word for pattern in words for word in _expanded(pattern)]
    _, context = parsed(given)
    configs = resolve(context) if {"config", "stalled"} & context.params.keys() else []
    more = smaller(configs[0]) if configs else []
    if "stalled" in context.params:
        more += ["--dry-run"] if words[1] == "reproduce" else ["seed=0,1"]
    result = CliRunner().invoke(app, [*given[1:], *more])
    assert result.exit_code == 0, f"{' '.join(given)}\n{result.output}\n{result.exception!r}"
    return result.output


def _expanded(word: str) -> list[str]:
    if not any(sign in word for sign in "*?") or "=" in word:
        return [word]
    found = sorted(map(str, Path().glob(word)))
    assert found, f"nothing fits {word}"
    return found


@contextmanager
def files_of(page: Sequence[Block], folder: Path) -> Iterator[dict[str, Any]]:
    """Write the files that a page shows, and make them importable; yields a namespace."""
    names = {block.notes["file"] for block in page if "file" in block.notes}
    for name in names:
        shown = [block.text for block in page if block.notes.get("file") == name]
        (folder / name).write_text("\n\n".join(shown), encoding="utf-8")
    path = list(sys.path)
    sys.path.insert(0, str(folder))
    try:
        yield {"__name__": "page"}
    finally:
        sys.path[:] = path
        for name in names:
            sys.modules.pop(Path(name).stem, None)
        registry.import_part.cache_clear()
