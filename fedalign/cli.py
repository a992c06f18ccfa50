"""The two commands: `fedalign …` and `flower-simulation --app …`.

Each command imports what it needs when it runs, so that `--help` does not wait for torch.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedalign.console import ConfigFile, Overrides, Verbose, guarded
from fedalign.deploy.commands import app as deploy
from fedalign.errors import InputError

if TYPE_CHECKING:
    from fedalign.settings.config import Config

app = typer.Typer(
    help="Federated learning simulations with neuron alignment.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.add_typer(deploy, name="deploy")


@app.command()
def run(
    config: ConfigFile,
    overrides: Overrides = None,
    out: Annotated[str | None, typer.Option(help="folder for the run folders")] = None,
    again: Annotated[bool, typer.Option("--again", help="repeat finished runs")] = False,
    reuse: Annotated[
        bool, typer.Option("--reuse", help="keep finished runs whose code or data have changed")
    ] = False,
    verbose: Verbose = False,
) -> None:
    """Run a federation, or several: `partition.alpha=0.1,0.5 seed=0,1,2` makes six runs.

    A finished run is not repeated; a stopped one continues from its last checkpoint. With `--again`
    both start from the first round. If the code of your parts, the data or fedalign's version have
    changed since a run finished, nothing starts until you give `--again` or `--reuse`.
    """
    with guarded(verbose):
        from fedalign.runs.identity import refuse_changed
        from fedalign.runs.paths import folder_of, forget, is_finished, limping
        from fedalign.server.participation import LimpingRunError
        from fedalign.settings import registry
        from fedalign.simulation import simulate
        from fedalign.simulation.app import FlowerApp

        own = FlowerApp(registry.HOME, "fedalign.server_app:app", "fedalign.client_app:app", {})
        several, limped = _grid(config, overrides or [], out), False
        if not again and not reuse:
            refuse_changed(several)
        for planned in several:
            if is_finished(folder_of(planned)) and not again:
                print(f"{folder_of(planned)} is finished already; use --again to repeat it")
                if line := limping(folder_of(planned)):
                    print(line, file=sys.stderr)
                    limped = True
                continue
            if again:
                forget(planned)
            try:
                simulate(
                    own,
                    planned.num_clients,
                    planned.run_config(),
                    backend=planned.simulation.backend,
                    backend_config=planned.simulation.backend_config(planned.device),
                )
            except LimpingRunError as error:  # it has finished, and others may do better
                print(f"error: {error}", file=sys.stderr)
                limped = True
        if limped:
            raise SystemExit(LimpingRunError.exit_code)


@app.command()
def validate(config: ConfigFile, overrides: Overrides = None) -> None:
    """Check a configuration, its data and its partition without training, and summarise it."""
    with guarded():
        from fedalign.report.summary import summary

        for planned in _grid(config, overrides or [], None):
            print(summary(planned))


@app.command()
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
        from fedalign.report.figures import save
        from fedalign.report.partition import counts_of, describe, picture

        several = _grid(config, overrides or [], None)
        for number, planned in enumerate(several, 1):
            counts = counts_of(Federation(planned))
            file = out if len(several) == 1 else out.with_stem(f"{out.stem}-{number}")
            save(picture(counts), file)
            print(describe(counts))
            print(f"figure in {file}\n" if number < len(several) else f"figure in {file}")


@app.command()
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
            _check_twice(_grid(config, overrides or [], None))
            return
        from fedalign.report.doctor import doctor

        for planned in _grid(config, overrides or [], None):
            for heading, text in doctor(planned).items():
                print(f"{heading:10}{text}")


@app.command(name="list")
def list_parts(
    name: Annotated[str | None, typer.Argument(help="show only this part, in detail")] = None,
) -> None:
    """List the parts that a configuration can name, or show one of them in detail."""
    with guarded():
        from fedalign.report.parts import print_part, print_parts

        print_parts() if name is None else print_part(name)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="run folders")],
    figure: Annotated[
        Path | None, typer.Option(help="PNG or PDF file for curves over rounds")
    ] = None,
    plane: Annotated[
        Path | None, typer.Option(help="PNG or PDF file for planes (see evaluation.plane)")
    ] = None,
) -> None:
    """Print a table of runs, averaged over seeds, and draw their curves and planes.

    A row is named by the settings in which runs differ; of many, the common values are left out and
    stated below. Runs that have not finished, copies, and runs in which clients failed are named.
    """
    with guarded():
        from fedalign.report.figures import over_rounds, save
        from fedalign.report.reading import distinct, read_runs
        from fedalign.report.tables import common_settings, groups, remarks, table

        folders, repeated = distinct(runs)
        found = read_runs(folders)
        rows = groups(found)
        print(table(rows))
        for line in (*common_settings(found), *repeated, *remarks(found, rows)):
            print(line)
        if figure is not None:
            save(over_rounds(rows), figure)
            print(f"figure in {figure}")
        if plane is not None:
            from fedalign.report.planes import maps, planes_of

            save(maps(planes_of(rows)), plane)
            print(f"planes in {plane}")


@app.command()
def connect(
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="A.safetensors B.safetensors... [KEY=VALUE]...", help="models, then settings"
        ),
    ],
    config: Annotated[
        str | None,
        typer.Option(help="their configuration; by default config.yaml beside the first file"),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="name of the model whose weights they are")
    ] = None,
    data: Annotated[str | None, typer.Option(help="name of the data set to test them on")] = None,
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
        models = [Path(word) for word in files if _is_file(word)]
        words = [word for word in files if not _is_file(word)]
        planned = how(models, words, config, {"model": model, "data": data})
        connection = connect(models, planned)
        print(describe(connection, planned.evaluation.match != "none"))
        write(connection, out)
        print(f"\ncurves, barriers and figures in {out}")


@app.command()
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


def main() -> None:
    """Run `fedalign`."""
    app()


def flower_simulation() -> None:
    """Run `flower-simulation`."""
    from fedalign.simulation.command import app as simulation

    simulation()


def _grid(config: str, overrides: list[str], out: str | None) -> list[Config]:
    """Return a configuration for each combination of the overrides' comma-separated values."""
    from fedalign.settings.config import read
    from fedalign.settings.sources import combinations, parse_choices

    fixed = {} if out is None else {"out": out}
    return [read(config, chosen | fixed) for chosen in combinations(parse_choices(overrides))]


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


def _is_file(word: str) -> bool:
    """Return whether a word names a file, even one with an equals sign, and not a setting."""
    return "=" not in word or word.endswith(".safetensors") or Path(word).is_file()
