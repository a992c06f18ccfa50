"""The commands `fedalign deploy …`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from fedalign.console import ConfigFile, Overrides, guarded
from fedalign.errors import FedalignError, InputError

app = typer.Typer(
    help="Run federations on real machines.", no_args_is_help=True, pretty_exceptions_enable=False
)

Address = Annotated[
    str,
    typer.Option(
        "--superlink",
        metavar="HOST:PORT",
        envvar="FEDALIGN_SUPERLINK",
        help="address of the SuperLink's control API",
    ),
]
Authority = Annotated[
    Path,
    typer.Option(
        "--root-certificates",
        metavar="FILE",
        envvar="FEDALIGN_ROOT_CERTIFICATES",
        help="the federation's ca.crt",
    ),
]


@app.command()
def local(
    config: ConfigFile,
    overrides: Overrides = None,
    supernodes: Annotated[
        int | None,
        typer.Option(min=1, help="number of SuperNodes; default: one per client or --data"),
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="folder with a node's data; repeat it for each node"),
    ] = None,
    out: Annotated[str | None, typer.Option(help="folder for the run folders")] = None,
    again: Annotated[bool, typer.Option("--again", help="repeat a finished run")] = False,
    reuse: Annotated[
        bool, typer.Option("--reuse", help="keep a finished run whose code or data have changed")
    ] = False,
    logs: Annotated[
        Path | None, typer.Option(help="folder for the logs of SuperLink and SuperNodes")
    ] = None,
) -> None:
    """Run a federation of real processes on this machine, with TLS and a key for each node.

    Starts a SuperLink and SuperNodes on loopback and stops them afterwards; the run folder stays.
    """
    with guarded():
        from fedalign.deploy.local import run

        run(config, overrides or [], supernodes, data or [], out, again, reuse, logs)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def superlink(
    options: typer.Context,
    door: Annotated[
        str,
        typer.Option(metavar="HOST:PORT", help="public address, which serves SuperNodes only"),
    ],
) -> None:
    """Run a SuperLink that only SuperNodes can reach from outside.

    All other options are those of `flower-superlink`. Its own address is on loopback, at `--port`:
    runs are submitted, and keys registered, on this machine only.
    """
    os.environ.setdefault("FLWR_LOG_LEVEL", "INFO")  # as `flower-superlink` has it
    with guarded():
        from fedalign.deploy.door import serve

        host, _, port = door.rpartition(":")
        if not host or not port.isdecimal():
            raise InputError(f"--door: {door!r} is not HOST:PORT, such as 0.0.0.0:8000")
        serve(host.strip("[]"), int(port), options.args)


@app.command()
def certificates(
    folder: Annotated[Path, typer.Argument(help="where they go; an authority there is reused")],
    host: Annotated[
        list[str] | None,
        typer.Option(help="name or address of the SuperLink as nodes see it; repeatable"),
    ] = None,
    days: Annotated[int, typer.Option(min=1, max=36500, help="days until they expire")] = 365,
) -> None:
    """Make an authority and the SuperLink's certificate, or renew the certificate."""
    with guarded():
        from fedalign.deploy.certs import certify

        for file in certify(folder, host or [], days):
            print(file)


@app.command()
def key(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="private keys to make")],
) -> None:
    """Make keys with which SuperNodes authenticate; register FILE.pub at the SuperLink."""
    with guarded():
        from fedalign.deploy.certs import make_key

        for file in files:
            print(make_key(file))


@app.command()
def register(
    keys: Annotated[list[Path], typer.Argument(metavar="KEY.pub...", help="public keys of nodes")],
    superlink: Address,
    root_certificates: Authority,
) -> None:
    """Register the nodes with these keys, so that they can connect."""
    with guarded():
        from fedalign.deploy.superlink import connected

        with connected(superlink, root_certificates) as link:
            for file in keys:
                node = link.register(file)
                outcome = "registered already" if node is None else f"node {node}"
                print(f"{file}: {outcome}", flush=True)


@app.command()
def unregister(
    nodes: Annotated[list[str], typer.Argument(metavar="NODE...", help="ids, as in `nodes`")],
    superlink: Address,
    root_certificates: Authority,
) -> None:
    """Unregister nodes, so that they can no longer connect."""
    with guarded():
        from fedalign.deploy.superlink import connected

        with connected(superlink, root_certificates) as link:
            for node in nodes:
                link.unregister(node)
                print(f"node {node} is unregistered", flush=True)


@app.command()
def nodes(superlink: Address, root_certificates: Authority) -> None:
    """List the registered nodes and their status, such as online or offline."""
    with guarded():
        from fedalign.deploy.superlink import connected

        with connected(superlink, root_certificates) as link:
            for node in link.nodes():
                since = node[f"{node['status']}-at"] if node["status"] != "registered" else ""
                print(f"{node['node-id']:>20}  {node['status']:<10}  {since}".rstrip())


@app.command()
def submit(
    superlink: Address,
    root_certificates: Authority,
    config: ConfigFile,
    overrides: Overrides = None,
    out: Annotated[
        str | None, typer.Option(help="folder for the run folders, on the SuperLink's machine")
    ] = None,
) -> None:
    """Start a run and show its log until it ends; a stopped run continues when submitted again.

    Only settings are sent: SuperLink and nodes run the fedalign that they have installed.
    """
    with guarded():
        from fedalign.deploy.superlink import connected, follow
        from fedalign.settings.config import read
        from fedalign.settings.sources import parse_overrides

        fixed = {} if out is None else {"out": out}
        planned = read(config, parse_overrides(overrides or []) | fixed)
        with connected(superlink, root_certificates) as link:
            follow(link, planned)


@app.command()
def health(
    address: Annotated[str, typer.Argument(metavar="HOST:PORT")],
    root_certificates: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="the federation's ca.crt; if omitted, no TLS is used"),
    ] = None,
) -> None:
    """Check that a SuperLink, or a SuperNode on this machine, answers; exit code 1 if not."""
    with guarded():
        from fedalign.deploy.health import is_up

        if root_certificates and not root_certificates.is_file():
            raise InputError(f"--root-certificates: {str(root_certificates)!r} is not a file")
        if not is_up(address, root_certificates):
            raise FedalignError(f"nothing answers at {address}")
        print(f"{address} answers")


@app.command()
def data(
    folder: Annotated[Path, typer.Argument(help="folder with the node's data")],
    config: ConfigFile,
    overrides: Overrides = None,
) -> None:
    """Check a node's local data against a configuration before the node joins."""
    with guarded():
        from fedalign.federation.federation import Federation
        from fedalign.federation.local_data import description
        from fedalign.settings.config import read
        from fedalign.settings.sources import parse_overrides

        planned = read(config, parse_overrides(overrides or []))
        print(description(folder, Federation(planned)))
