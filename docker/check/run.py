"""Run the services of `compose.yaml` as processes on this machine, from keys to a finished run."""

from __future__ import annotations

import json
import ssl
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from check import files
from check.standin import SUPERLINK, StandIn
from fedalign.federation.federation import Federation
from fedalign.settings.config import read

CLOSED = ("/v1/runtime/acquire-task", "/v1/control/start-run", "/v1/control/register-node", "/docs")
CONFIG = ("quickstart", "rounds=1", "strategy=scaffold", "client=scaffold")


def steps() -> Iterator[str]:
    """Yield a line for each step that passes; `AssertionError` if one fails."""
    settings = files.settings()
    spec = files.compose(files.STACKS[0], settings)
    with tempfile.TemporaryDirectory(prefix="fedalign-") as folder:
        machine = Path(folder)
        for path in files.DOCKER.rglob(".gitkeep"):
            (machine / path.parent.relative_to(files.DOCKER)).mkdir(parents=True)
        stand_in = StandIn(spec, machine)
        with stand_in:
            yield from _run(stand_in, machine, settings)
        left = stand_in.left()
        assert not left, f"still running: {left}"
        yield "no process is left behind"


def _run(stand_in: StandIn, machine: Path, settings: dict[str, str]) -> Iterator[str]:
    nodes = [name for name in stand_in.spec["services"] if name.startswith("supernode")]
    _data([machine / files.mounts(stand_in.spec, name)["/data"][0] for name in nodes])
    stand_in.run("certificates")
    stand_in.run("key")
    yield from _keys(machine, len(nodes))
    stand_in.up(SUPERLINK)
    yield "SuperLink healthy over TLS"
    authority = machine / settings["FEDALIGN_CERTS"] / "ca.crt"
    answers = [_knock(f"127.0.0.1:{stand_in.ports[SUPERLINK]}", authority, path) for path in CLOSED]
    assert answers == [404] * len(CLOSED), answers
    yield f"from outside, {len(CLOSED)} paths for others than SuperNodes answer 404"
    output = stand_in.run("register")
    assert output.count(": node ") == len(nodes), output
    yield f"{len(nodes)} keys registered"
    for name in nodes:
        stand_in.up(name)
    yield f"{len(nodes)} SuperNodes healthy"
    # Exit code 0 means `finished:completed`.
    stand_in.run("submit", *CONFIG, f"num_clients={len(nodes)}")
    (manifest,) = (machine / settings["FEDALIGN_RUNS"]).glob("*/manifest.json")
    facts = json.loads(manifest.read_text())
    assert facts["status"] == "finished", facts
    assert facts["num_clients"] == len(nodes), facts
    yield f"run completed, results in {manifest.parent.relative_to(machine)}"
    for name in nodes:
        folder = machine / files.mounts(stand_in.spec, name)["/state"][0]
        assert [path for path in folder.rglob("*") if path.name != ".gitkeep"], f"{folder} is empty"
    yield "each SuperNode has stored its client's state"
    output = stand_in.run("nodes")
    assert output.count("online") == len(nodes), output
    took = max([*map(stand_in.down, nodes), stand_in.down(SUPERLINK)])
    yield f"all services ended by themselves after SIGTERM, the slowest within {took:.1f} s"
    assert not stand_in.strays(), f"written into the image: {stand_in.strays()}"
    yield "nothing was written outside /tmp and the writable mounts"


def _knock(address: str, authority: Path, path: str) -> int:
    """Return the status with which a SuperLink answers somebody without a key."""
    context = ssl.create_default_context(cafile=authority)
    try:
        with urllib.request.urlopen(f"https://{address}{path}", b"", context=context) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def _data(folders: list[Path]) -> None:
    """Give each SuperNode a part of the digits as its local data."""
    federation = Federation(read(CONFIG[0], {"num_clients": len(folders)}))
    for folder, rows in zip(folders, federation.shards(len(folders)), strict=True):
        part = federation.train.at(rows)
        np.savez(folder / "train.npz", images=part.images.numpy(), labels=part.labels.numpy())


def _keys(machine: Path, count: int) -> Iterator[str]:
    secret = [*(machine / "keys").glob("node-?"), *(machine / "certs").glob("*.key")]
    assert len(secret) == count + 2, secret
    assert {path.stat().st_mode & 0o777 for path in secret} == {0o600}, secret
    yield f"authority, certificate and {count} keys made, readable only by their owner"
