"""The two commands: `fedalign …` and `flower-simulation --app …`.

Commands import what they need when they run, so that `--help` does not wait for torch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedalign.console import ConfigFile, Overrides, Verbose, guarded
from fedalign.deploy.commands import app as deploy
from fedalign.errors import InputError, nearest

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
    out: Annotated[str | None, typer.Option(help="folder that holds the run folders")] = None,
    again: Annotated[bool, typer.Option("--again", help="start from nothing")] = False,
    verbose: Verbose = False,
) -> None:
    """Run a federation, or several: `partition.alpha=0.1,0.5 seed=0,1,2` is six.

    A run whose folder says that it is finished is not run again; one that was stopped goes on
    from its last checkpoint.
    """
    with guarded(verbose):
        from fedalign.runs.paths import folder_of, forget, is_finished
        from fedalign.settings import registry
        from fedalign.simulation import simulate
        from fedalign.simulation.app import FlowerApp

        own = FlowerApp(registry.HOME, "fedalign.server_app:app", "fedalign.client_app:app", {})
        for planned in _grid(config, overrides or [], out):
            if is_finished(folder_of(planned)) and not again:
                print(f"{folder_of(planned)} is finished already; --again repeats it")
                continue
            if again:
                forget(planned)
            simulate(
                own,
                planned.num_clients,
                planned.run_config(),
                backend=planned.simulation.backend,
                backend_config=planned.simulation.backend_config(),
            )


@app.command()
def validate(config: ConfigFile, overrides: Overrides = None) -> None:
    """Check a configuration down to the data and the partition, without training."""
    with guarded():
        from fedalign.report.summary import summary

        for planned in _grid(config, overrides or [], None):
            print(summary(planned))


@app.command()
def partition(
    config: ConfigFile,
    overrides: Overrides = None,
    out: Annotated[Path, typer.Option(help="PNG or PDF; numbered if there are several")] = Path(
        "partition.png"
    ),
) -> None:
    """Show who has what: statistics, and a picture; `partition.alpha=0.1,1` shows two."""
    with guarded():
        from fedalign.federation.federation import Federation
        from fedalign.report.figures import save
        from fedalign.report.partition import dealt, picture, told

        several = _grid(config, overrides or [], None)
        for number, planned in enumerate(several, 1):
            found = dealt(Federation(planned))
            file = out if len(several) == 1 else out.with_stem(f"{out.stem}-{number}")
            save(picture(found), file)
            print(told(found))
            print(f"picture in {file}\n" if number < len(several) else f"picture in {file}")


@app.command()
def doctor(config: ConfigFile, overrides: Overrides = None) -> None:
    """Say what this machine gives a configuration: workers, stack, the cost of a message."""
    with guarded():
        from fedalign.report.doctor import doctor

        for planned in _grid(config, overrides or [], None):
            for heading, text in doctor(planned).items():
                print(f"{heading:10}{text}")


@app.command(name="list")
def list_parts(
    name: Annotated[str | None, typer.Argument(help="tell all about the part of this name")] = None,
) -> None:
    """List strategies, client algorithms, mask schedules, partitioners, models and data sets."""
    with guarded():
        from fedalign.report.parts import print_part, print_parts

        print_parts() if name is None else print_part(name)


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="run folders")],
    figure: Annotated[Path | None, typer.Option(help="draw the runs into this PNG or PDF")] = None,
    plane: Annotated[
        Path | None, typer.Option(help="draw their planes (evaluation.plane) into this PNG or PDF")
    ] = None,
) -> None:
    """Print a table of runs, seeds taken together, and draw their curves and planes."""
    with guarded():
        from fedalign.report.figures import over_rounds, save
        from fedalign.report.tables import groups, read_runs, table

        rows = groups(read_runs(runs))
        print(table(rows))
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
        typer.Argument(metavar="A.safetensors B.safetensors... [KEY=VALUE]...", help="models"),
    ],
    config: Annotated[
        str | None, typer.Option(help="what they were trained with; by default beside the first")
    ] = None,
    model: Annotated[str | None, typer.Option(help="what they are weights of")] = None,
    data: Annotated[str | None, typer.Option(help="where they are tested")] = None,
    out: Annotated[Path, typer.Option(help="folder for curves, barriers and figure")] = Path(
        "connection"
    ),
) -> None:
    """Measure the lines between models, wherever they were trained.

    Prints every pair's barriers, as they are and after their neurons have been matched.
    """
    with guarded():
        from fedalign.landscape.connect import connect, how
        from fedalign.report.connection import told, write

        if out.exists() and not out.is_dir():
            raise InputError(f"--out: {out} is a file, not a folder")
        models = [Path(word) for word in files if _is_file(word)]
        words = [word for word in files if not _is_file(word)]
        planned = how(models, words, config, {"model": model, "data": data})
        found = connect(models, planned)
        print(told(found, planned.evaluation.match != "none"))
        write(found, out)
        print(f"\ncurves, barriers and figure in {out}")


@app.command()
def reproduce(
    study: Annotated[
        str, typer.Argument(metavar="NAME", help="YAML file, or its name in configs/studies/")
    ],
    overrides: Overrides = None,
    jobs: Annotated[
        int | None, typer.Option(min=1, help="runs at a time; half the cores if not given")
    ] = None,
    out: Annotated[str | None, typer.Option(help="folder that holds the run folders")] = None,
) -> None:
    """Run all runs of a study that are not finished, then write its table and its figure.

    Settings hold for all runs; `seed=0,1` takes the place of the study's own seeds.
    """
    with guarded():
        from fedalign.studies.reproduce import reproduce

        reproduce(study, overrides or [], jobs, out)


simulation = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@simulation.command()
def simulation_command(
    app: Annotated[
        str, typer.Option(help="directory of a Flower app, its package folder, or an installed app")
    ],
    num_supernodes: Annotated[
        int | None, typer.Option(help="simulated clients; fedalign's own app has num_clients")
    ] = None,
    run_config: Annotated[
        list[str] | None, typer.Option(help="'key=value key2=\"text\"' or a TOML file; repeatable")
    ] = None,
    backend: Annotated[str | None, typer.Option(help="ray, inline or flower; default: ray")] = None,
    address: Annotated[str | None, typer.Option(help="of a running Ray cluster")] = None,
    backend_config: Annotated[
        str, typer.Option(metavar="JSON", help='such as {"client_resources": {"num_cpus": 1}}')
    ] = "{}",
    run_id: Annotated[int | None, typer.Option(help="default: random")] = None,
    verbose: Verbose = False,
) -> None:
    """Run a Flower app with simulated SuperNodes."""
    with guarded(verbose):
        from fedalign.simulation import simulate
        from fedalign.simulation.app import find_app, parse_run_config

        found, given = find_app(app), parse_run_config(run_config or [])
        engine = ({"init_args": {"address": address}} if address else {}) | _json(backend_config)
        if found.server == "fedalign.server_app:app":
            config = _own_config({**found.defaults, **given}, num_supernodes, backend)
            found, given = replace(found, defaults={}), config.run_config()
            num_supernodes, backend = config.num_clients, config.simulation.backend
            engine = config.simulation.backend_config() | engine
        else:
            for key in given.keys() - found.defaults.keys():
                hint = nearest(key, found.defaults)
                raise InputError(f"--run-config: {app} has no {key!r}{hint}")
        if num_supernodes is None:
            raise InputError(f"--num-supernodes: {app} does not say how many it needs; give it")
        simulate(
            found,
            num_supernodes,
            given,
            backend=backend or "ray",
            backend_config=engine,
            run_id=run_id,
        )


def main() -> None:
    """Run `fedalign`."""
    app()


def flower_simulation() -> None:
    """Run `flower-simulation`."""
    simulation()


def _grid(config: str, overrides: list[str], out: str | None) -> list[Config]:
    """Return a configuration for each combination of the overrides' comma-separated values."""
    from fedalign.settings.config import read
    from fedalign.settings.sources import combinations, parse_choices

    fixed = {} if out is None else {"out": out}
    return [read(config, chosen | fixed) for chosen in combinations(parse_choices(overrides))]


def _own_config(given: Mapping[str, Any], num_clients: int | None, backend: str | None) -> Config:
    """Return the configuration of fedalign's own app; on Ray, unless it says where."""
    from fedalign.settings.config import from_run_config

    more = {"num_clients": num_clients, "simulation.backend": backend}
    settings = {**given, **{key: value for key, value in more.items() if value is not None}}
    config = from_run_config(settings)
    if "backend" in config.simulation.model_fields_set:
        return config
    return from_run_config(settings | {"simulation.backend": "ray"})


def _is_file(word: str) -> bool:
    """Return whether a word is a file, which may have an equals sign in its name, or a setting."""
    return "=" not in word or word.endswith(".safetensors") or Path(word).is_file()


def _json(text: str) -> dict[str, Any]:
    try:
        parsed = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"--backend-config: {text!r} is not JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise InputError(f"--backend-config: {text!r} is not a JSON object")
    return parsed
