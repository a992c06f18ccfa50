"""`fedalign deploy …`: certificates and keys, submitting runs, and a federation on loopback."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fedalign.console import ConfigFile, Overrides, guarded
from fedalign.errors import FedalignError, InputError

app = typer.Typer(
    help="The same app on real machines.", no_args_is_help=True, pretty_exceptions_enable=False
)

Address = Annotated[
    str, typer.Option("--superlink", metavar="HOST:PORT", envvar="FEDALIGN_SUPERLINK")
]
Authority = Annotated[
    Path,
    typer.Option(
        "--root-certificates",
        metavar="FILE",
        envvar="FEDALIGN_ROOT_CERTIFICATES",
        help="ca.crt of the federation",
    ),
]


@app.command()
def local(
    config: ConfigFile,
    overrides: Overrides = None,
    supernodes: Annotated[
        int | None, typer.Option(min=1, help="how many; by default one a client, or a --data")
    ] = None,
    data: Annotated[
        list[Path] | None,
        typer.Option(help="a folder that a node has its data in; once for each node"),
    ] = None,
    out: Annotated[str | None, typer.Option(help="folder that holds the run folders")] = None,
    again: Annotated[bool, typer.Option("--again", help="start from nothing")] = False,
    logs: Annotated[
        Path | None, typer.Option(help="folder for what SuperLink and SuperNodes print")
    ] = None,
) -> None:
    """Run a federation of real processes on this machine: TLS, a key for each node.

    SuperLink and SuperNodes are started on loopback and gone afterwards; the run folder stays.
    """
    with guarded():
        from fedalign.deploy.local import run

        run(config, overrides or [], supernodes, data or [], out, again, logs)


@app.command()
def certificates(
    folder: Annotated[Path, typer.Argument(help="where they go; an authority there is kept")],
    host: Annotated[
        list[str] | None,
        typer.Option(help="name or address by which nodes reach the SuperLink; repeatable"),
    ] = None,
    days: Annotated[int, typer.Option(min=1, help="how long they are valid")] = 365,
) -> None:
    """Make an authority and the SuperLink's certificate, or renew the latter."""
    with guarded():
        from fedalign.deploy.certs import certify

        for file in certify(folder, host or [], days):
            print(file)


@app.command()
def key(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="private keys to make")],
) -> None:
    """Make the key that a SuperNode proves itself with; FILE.pub is what the SuperLink is told."""
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
    """Let the nodes with these keys in; those that are in already stay so."""
    with guarded():
        from fedalign.deploy.superlink import connected

        with connected(superlink, root_certificates) as link:
            for file in keys:
                node = link.register(file)
                print(f"{file}: {'already in' if node is None else f'node {node}'}", flush=True)


@app.command()
def unregister(
    nodes: Annotated[list[str], typer.Argument(metavar="NODE...", help="as `nodes` lists them")],
    superlink: Address,
    root_certificates: Authority,
) -> None:
    """Let these nodes in no more."""
    with guarded():
        from fedalign.deploy.superlink import connected

        with connected(superlink, root_certificates) as link:
            for node in nodes:
                link.unregister(node)
                print(f"node {node} is let in no more", flush=True)


@app.command()
def nodes(superlink: Address, root_certificates: Authority) -> None:
    """List the nodes that are registered, and which of them are online."""
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
        str | None, typer.Option(help="folder on the SuperLink's machine for the run folders")
    ] = None,
) -> None:
    """Start a run and show its log to the end; one that was stopped goes on when submitted again.

    What runs is the fedalign that the SuperLink and its nodes have installed; only settings travel.
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
        typer.Option(metavar="FILE", help="ca.crt of the federation; not said: without TLS"),
    ] = None,
) -> None:
    """Say whether a SuperLink, or a SuperNode on its own machine, answers; exit code 1 if not."""
    with guarded():
        from fedalign.deploy.health import is_up

        if root_certificates and not root_certificates.is_file():
            raise InputError(f"--root-certificates: {str(root_certificates)!r} is no file")
        if not is_up(address, root_certificates):
            raise FedalignError(f"nobody answers at {address}")
        print(f"{address} answers")


@app.command()
def data(
    folder: Annotated[Path, typer.Argument(help="a node's data")],
    config: ConfigFile,
    overrides: Overrides = None,
) -> None:
    """Check a node's data against a federation, before it joins."""
    with guarded():
        from fedalign.federation.federation import Federation
        from fedalign.federation.local_data import description
        from fedalign.settings.config import read
        from fedalign.settings.sources import parse_overrides

        planned = read(config, parse_overrides(overrides or []))
        print(description(folder, Federation(planned)))
