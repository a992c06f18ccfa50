"""The two commands: `fedalign …` and `flower-simulation --app …`."""

from __future__ import annotations

import typer

from fedalign.commands import checking, comparing, fusing, results, running, studies
from fedalign.deploy.commands import app as deploy

app = typer.Typer(
    help="Federated learning simulations with neuron alignment.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)

app.callback()(checking.about)
app.command()(running.run)
app.command()(checking.validate)
app.command()(checking.partition)
app.command()(checking.doctor)
app.command()(checking.evaluate)
app.command(name="list")(checking.list_parts)
app.command()(results.report)
app.command()(comparing.compare)
app.command()(comparing.figure)
app.command()(results.connect)
app.command()(fusing.fuse)
app.command()(studies.sweep)
app.command(name="reproduce", help="Make one of fedalign's studies, a sweep in configs/studies/.")(
    studies.sweep
)
app.add_typer(deploy, name="deploy")


def main() -> None:
    """Run `fedalign`."""
    app()


def flower_simulation() -> None:
    """Run `flower-simulation`."""
    from fedalign.simulation.command import app as simulation

    simulation()
