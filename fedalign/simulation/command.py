"""The command `flower-simulation --app …`, for fedalign and for any other Flower app."""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedalign.console import Verbose, guarded, quiet_flower
from fedalign.errors import FedalignError, InputError, named, nearest

if TYPE_CHECKING:
    from fedalign.settings.config import Config
    from fedalign.simulation.app import FlowerApp

FORMER = ("--client-app", "--server-app", "--app-dir", "--superlink", "--driver-api-address")

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def flower_simulation(
    app: Annotated[
        str,
        typer.Option(help="folder of a Flower app, its package folder, or an installed package"),
    ],
    num_supernodes: Annotated[
        int | None, typer.Option(help="number of clients, unless the app says how many")
    ] = None,
    run_config: Annotated[
        list[str] | None, typer.Option(help="'key=value key2=\"text\"' or a TOML file; repeatable")
    ] = None,
    backend: Annotated[
        str | None, typer.Option(help="auto (the default), inline, ray or flower")
    ] = None,
    address: Annotated[str | None, typer.Option(help="address of a running Ray cluster")] = None,
    backend_config: Annotated[
        str, typer.Option(metavar="JSON", help='for example {"client_resources": {"num_cpus": 1}}')
    ] = "{}",
    run_id: Annotated[int | None, typer.Option(help="id of the run; by default random")] = None,
    enable_tf_gpu_growth: Annotated[
        bool, typer.Option("--enable-tf-gpu-growth", help="let TensorFlow take memory as it needs")
    ] = False,
    flwr_dir: Annotated[str | None, typer.Option(help="Flower's own folder, FLWR_HOME")] = None,
    delay_start: Annotated[int, typer.Option(hidden=True)] = 0,  # noqa: ARG001 - all nodes are there
    former: Annotated[
        str | None, typer.Option(*FORMER, hidden=True, help="what Flower's command once had")
    ] = None,
    verbose: Verbose = False,
) -> None:
    """Run a Flower app with simulated SuperNodes."""
    with guarded(verbose, quiet=False):
        from fedalign.simulation import simulate
        from fedalign.simulation.app import find_app, parse_run_config
        from fedalign.simulation.new_files import new_files_named

        if former is not None:
            raise InputError(
                f"{', '.join(FORMER)}: give the app's folder by --app; its pyproject.toml names "
                "both halves"
            )
        _set_environment(enable_tf_gpu_growth, flwr_dir)
        found, given = find_app(app), parse_run_config(run_config or [])
        engine = ({"init_args": {"address": address}} if address else {}) | _json(backend_config)
        own = found.server == "fedalign.server_app:app"
        if own:
            quiet_flower()
            config = _own_config({**found.defaults, **given}, num_supernodes, backend)
            found, given = replace(found, defaults={}), config.run_config()
            num_supernodes, backend = config.num_clients, config.simulation.backend
            engine = config.simulation.backend_config(config.device) | engine
        else:
            for key in given.keys() - found.defaults.keys():
                hint = nearest(key, found.defaults)
                raise InputError(f"--run-config: {app} has no {key!r}{hint}")
            num_supernodes = found.num_supernodes if num_supernodes is None else num_supernodes
            backend = backend or "auto"
            engine = _engine_of(found, backend) | engine
        if num_supernodes is None:
            raise InputError(f"--num-supernodes: {app} does not say how many it needs; give it")
        with (
            nullcontext() if verbose else _app_named(app, traced=not own),
            nullcontext() if own else new_files_named(Path.cwd(), found.root),
        ):
            simulate(
                found,
                num_supernodes,
                given,
                backend=backend,
                backend_config=engine,
                run_id=run_id,
            )


@contextmanager
def _app_named(app: str, traced: bool) -> Iterator[None]:
    """Name the app in front of what it raises, perhaps after the traceback."""
    try:
        with named(f"--app: {app} failed", FedalignError):
            yield
    except FedalignError as error:
        if traced and error.__cause__ is not None:
            traceback.print_exception(error.__cause__)
        from fedalign.simulation.weightless import weightless

        if reason := weightless(error.__cause__):
            raise FedalignError(f"--app: {app} failed: {reason}") from None
        raise


def _set_environment(enable_tf_gpu_growth: bool, flwr_dir: str | None) -> None:
    """Pass options of Flower's former command on in the variables that Flower recommends."""
    if enable_tf_gpu_growth:
        os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
    if flwr_dir is not None:
        os.environ["FLWR_HOME"] = str(Path(flwr_dir).expanduser().resolve())


def _engine_of(app: FlowerApp, backend: str) -> dict[str, Any]:
    """Return what the app's default federation says of an engine, if the engine understands it."""
    from fedalign.simulation import BACKENDS

    known = BACKENDS.get(backend, ())
    given = {key.replace("-", "_"): value for key, value in app.engine.items()}
    return {key: value for key, value in given.items() if key in known}


def _own_config(given: Mapping[str, Any], num_clients: int | None, backend: str | None) -> Config:
    """Return the configuration of fedalign's own app."""
    from fedalign.settings.config import from_run_config

    options = {"num_clients": num_clients, "simulation.backend": backend}
    settings = {**given, **{key: value for key, value in options.items() if value is not None}}
    return from_run_config(settings)


def _json(text: str) -> dict[str, Any]:
    try:
        parsed = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"--backend-config: {text!r} is not JSON: {error}") from None
    if not isinstance(parsed, dict):
        raise InputError(f"--backend-config: {text!r} is not a JSON object")
    return parsed
