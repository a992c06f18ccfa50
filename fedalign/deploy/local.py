"""A federation of real processes on this machine: SuperLink and SuperNodes on loopback."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from fedalign.config import Config, read
from fedalign.deploy.certs import certify, make_key
from fedalign.deploy.superlink import SuperLink, environment, follow, program
from fedalign.errors import FedalignError, InputError
from fedalign.runs.folder import folder_of, forget, is_finished
from fedalign.settings import parse_overrides

PATIENCE = 60.0  # seconds to wait for a process to be up
GRACE = 5.0  # seconds that a process has to end by itself

Setting = str | int | float | bool


class Local:
    """A SuperLink and SuperNodes as processes, each with a key of its own; gone when left.

    Args:
        nodes: the node config of each SuperNode, such as `{"partition-id": 0, "data-dir": "a"}`.
        logs: folder for what the processes print; None: nowhere that stays.
    """

    def __init__(self, nodes: Sequence[Mapping[str, Setting]], logs: Path | None = None):
        self._nodes = nodes
        self._folder = Path(tempfile.mkdtemp(prefix="fedalign-"))
        self.logs = logs or self._folder / "logs"
        self.address = f"127.0.0.1:{_free_port()}"
        self.superlink = SuperLink(self.address, self._certs / "ca.crt", self._folder / "home")
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def _certs(self) -> Path:
        return self._folder / "certs"

    def __enter__(self) -> Local:
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
            certify(self._certs, [])
            self.start_superlink()
            for number in range(len(self._nodes)):
                self.superlink.register(make_key(self.key(number)))
            for number in range(len(self._nodes)):
                self.start_node(number)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop all processes and those that they started, and remove their files."""
        for name in reversed(list(self._running)):
            self.signal(name, signal.SIGTERM)
        until = time.monotonic() + GRACE
        for name in list(self._running):
            self._end(name, until)
        shutil.rmtree(self._folder, ignore_errors=True)

    def key(self, number: int) -> Path:
        """Return the private key of a node."""
        return self._folder / "keys" / f"node-{number}"

    def start_superlink(self) -> None:
        """Start the SuperLink, or start it again, and wait until it answers."""
        _, port = self.address.split(":")
        certs = self._certs
        self._start(
            "superlink",
            *("flower-superlink", "--host", "127.0.0.1", "--port", port),
            *("--ssl-ca-certfile", certs / "ca.crt", "--ssl-certfile", certs / "server.crt"),
            *("--ssl-keyfile", certs / "server.key", "--enable-supernode-auth"),
            *("--database", self._folder / "state.db", "--disable-runtime-dependency-installation"),
        )
        until = time.monotonic() + PATIENCE
        while not self.superlink.is_up():
            if self._running["superlink"].poll() is not None or time.monotonic() > until:
                raise FedalignError(f"the SuperLink did not come up:\n{self.log('superlink')}")
            time.sleep(0.1)

    def start_node(self, number: int, *more: str | Path) -> None:
        """Start a SuperNode, or start it again; `more` options of its command come last."""
        told = self._nodes[number]
        self._start(
            f"node-{number}",
            *("flower-supernode", "--superlink", self.address, "--port", str(_free_port())),
            *("--root-certificates", self._certs / "ca.crt"),
            *("--auth-supernode-private-key", self.key(number)),
            *("--node-config", " ".join(f"{key}={json.dumps(told[key])}" for key in told)),
            *more,
        )

    def stop(self, name: str, how: signal.Signals = signal.SIGTERM) -> None:
        """Stop a process and all that it started."""
        self.signal(name, how)
        self._end(name, time.monotonic() + GRACE)

    def signal(self, name: str, how: signal.Signals) -> None:
        """Send a signal to a process and all that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._running[name].pid, how)

    def log(self, name: str) -> str:
        """Return what a process has printed."""
        return (self.logs / f"{name}.log").read_text("utf-8", errors="replace")

    def _start(self, name: str, command: str, *options: str | Path) -> None:
        with (self.logs / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                [program(command), *map(str, options)],
                cwd=self._folder,
                env=environment(self._folder / name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that it can be stopped with all that it starts
            )

    def _end(self, name: str, until: float) -> None:
        process = self._running.pop(name)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.0, until - time.monotonic()))
        # Flower's own children outlive it for some seconds otherwise.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def run(
    config: str,
    overrides: Sequence[str],
    supernodes: int | None,
    data: Sequence[Path],
    out: str | None,
    again: bool,
    logs: Path | None,
) -> None:
    """Run a configuration on processes of this machine; see `fedalign deploy local`.

    The run's name ends in `-deployed`, so that its folder is not that of the same run simulated.
    """
    planned = _planned(config, overrides, supernodes, data, out)
    folder = folder_of(planned)
    if is_finished(folder) and not again:
        print(f"{folder} is finished already; --again repeats it")
        return
    if again:
        forget(planned)
    count = planned.num_clients
    nodes: list[dict[str, Setting]] = [{"partition-id": i} for i in range(count)]
    for i, node in enumerate(nodes):
        node |= {"data-dir": str(data[i].resolve())} if data else {"num-partitions": count}
    print(f"starting a SuperLink and {count} SuperNodes", flush=True)
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with Local(nodes, logs) as local:
            follow(local.superlink, planned)
    finally:
        signal.signal(signal.SIGTERM, before)


def _planned(
    config: str,
    overrides: Sequence[str],
    supernodes: int | None,
    data: Sequence[Path],
    out: str | None,
) -> Config:
    """Return the configuration with a client for each node, and its folders in full."""
    for folder in data:
        if not folder.is_dir():
            raise InputError(f"--data: {str(folder)!r} is no folder")
    if data and supernodes not in (None, len(data)):
        raise InputError(f"--supernodes: {supernodes}, but --data names {len(data)} folders")
    given = parse_overrides(overrides) | ({} if out is None else {"out": out})
    count = supernodes or len(data)
    given |= {"num_clients": count} if count else {}
    planned = read(config, given)
    # The processes are started elsewhere.
    full = {"out": str(Path(planned.out).expanduser().resolve())}
    return read(config, given | full | {"name": f"{planned.name}-deployed"})


def _free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port: int = opened.getsockname()[1]
        return port
