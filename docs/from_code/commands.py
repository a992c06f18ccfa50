"""The page of commands: walks what `typer` made of them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click
import typer

from fedalign.cli import app
from fedalign.simulation.command import app as simulation
from from_code.markdown import code, prose, table


def page() -> str:
    """Return a section for each command: how it is called, what it does, its options."""
    found = [*walk(typer.main.get_command(app), "fedalign")]
    other = typer.main.get_command(simulation)
    return "\n\n".join(section(c, name) for c, name in [*found, (other, "flower-simulation")])


def walk(command: click.Command, name: str) -> Iterator[tuple[click.Command, str]]:
    """Yield every command that can be run with its full name, those in groups too."""
    if isinstance(command, click.Group):
        for inner, found in command.commands.items():
            yield from walk(found, f"{name} {inner}")
    elif not command.hidden:
        yield command, name


def section(command: click.Command, name: str) -> str:
    """Return the section of one command."""
    context = click.Context(command, info_name=name)
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    rows = [_row(p, context) for p in command.params if not getattr(p, "hidden", False)]
    pieces = [f"## {name}", f"```text\n{usage}\n```", prose(inspect.cleandoc(command.help or ""))]
    return "\n\n".join([*pieces, table(["given", "meaning", "default"], rows)] if rows else pieces)


def _row(parameter: click.Parameter, context: click.Context) -> list[str]:
    flags = getattr(parameter, "opts", []) if isinstance(parameter, click.Option) else []
    metavar = parameter.make_metavar(context).removesuffix(" RANGE")
    called = ", ".join(map(code, flags)) if flags else code(metavar)
    if flags and not getattr(parameter, "is_flag", False):
        called += f" {code(metavar)}"
    return [called, prose(getattr(parameter, "help", None) or ""), _default(parameter)]


def _default(parameter: click.Parameter) -> str:
    if parameter.required:
        return "required"
    value = parameter.default
    return "" if callable(value) or value in (None, False, (), []) else code(str(value))
