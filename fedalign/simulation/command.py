"""The command `flower-simulation --app …`, for fedalign and for any other Flower app."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedalign.console import Verbose, guarded
from fedalign.errors import FedalignError, InputError, named, nearest

if TYPE_CHECKING:
    from fedalign.settings.config import Config

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def flower_simulation(
    app: Annotated[
        str,
        typer.Option(help="folder of a Flower app, its package folder, or an installed package"),
    ],
    num_supernodes: Annotated[
        int | None, typer.Option(help="number of clients; fedalign's own app has a default")
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
            engine = config.simulation.backend_config(config.device) | engine
        else:
            for key in given.keys() - found.defaults.keys():
                hint = nearest(key, found.defaults)
                raise InputError(f"--run-config: {app} has no {key!r}{hint}")
        if num_supernodes is None:
            raise InputError(f"--num-supernodes: {app} does not say how many it needs; give it")
        with named(f"--app: {app} failed", FedalignError) if not verbose else nullcontext():
            simulate(
                found,
                num_supernodes,
                given,
                backend=backend or "auto",
                backend_config=engine,
                run_id=run_id,
            )


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
