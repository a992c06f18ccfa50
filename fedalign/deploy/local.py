"""Run a federation of real processes on this machine: SuperLink and SuperNodes on loopback."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import psutil

from fedalign.deploy.certs import certify, make_key
from fedalign.deploy.processes import PATIENCE, Processes, free_port
from fedalign.deploy.superlink import SuperLink, follow
from fedalign.deploy.watch import Watch
from fedalign.errors import FedalignError, InputError
from fedalign.federation.client_state import STATES
from fedalign.runs.identity import refuse_changed
from fedalign.runs.paths import folder_of, forget, is_finished
from fedalign.settings.config import Config, read
from fedalign.settings.sources import parse_overrides

Setting = str | int | float | bool


class Local(Processes):
    """A SuperLink and SuperNodes as processes, each node with its own key; a context manager.

    Entering starts the processes `superlink`, `node-0`, `node-1`, …; leaving stops them.

    Args:
        nodes: the node config of each SuperNode, such as `{"partition-id": 0, "data-dir": "a"}`.
        logs: folder for the processes' logs; None: a temporary one.
        late: number of nodes, the last ones, that are registered but not started on entering.
    """

    def __init__(
        self, nodes: Sequence[Mapping[str, Setting]], logs: Path | None = None, late: int = 0
    ):
        super().__init__(logs)
        self._late = late
        self._nodes = nodes
        self.address = f"127.0.0.1:{free_port()}"
        self.door = f"127.0.0.1:{free_port()}"
        self.superlink = SuperLink(self.address, self._certs / "ca.crt", self.folder / "home")

    @property
    def _certs(self) -> Path:
        return self.folder / "certs"

    def __enter__(self) -> Self:
        try:
            super().__enter__()
            certify(self._certs, [])
            self.start_superlink()
            for number in range(len(self._nodes)):
                self.superlink.register(make_key(self.key(number)))
            for number in range(len(self._nodes) - self._late):
                self.start_node(number)
        except BaseException:
            self.__exit__()
            raise
        return self

    def key(self, number: int) -> Path:
        """Return the file of a node's private key."""
        return self.folder / "keys" / f"node-{number}"

    def start_superlink(self) -> None:
        """Start or restart the SuperLink, and wait until it answers."""
        _, port = self.address.split(":")
        certs = self._certs
        self.start(
            "superlink",
            *("fedalign", "deploy", "superlink", "--door", self.door, "--port", port),
            *("--ssl-ca-certfile", certs / "ca.crt", "--ssl-certfile", certs / "server.crt"),
            *("--ssl-keyfile", certs / "server.key", "--enable-supernode-auth"),
            *("--database", self.folder / "state.db", "--disable-runtime-dependency-installation"),
        )
        until = time.monotonic() + PATIENCE
        while not self.superlink.is_up():
            if self.running["superlink"].poll() is not None or time.monotonic() > until:
                raise FedalignError(f"the SuperLink did not start:\n{self.log('superlink')}")
            time.sleep(0.1)

    def start_node(self, number: int, *more: str | Path) -> None:
        """Start or restart a SuperNode; `more` are further options of its command."""
        config = " ".join(f"{k}={json.dumps(value)}" for k, value in self._nodes[number].items())
        self.start(
            f"node-{number}",
            *("flower-supernode", *self.node_options()),
            *("--root-certificates", self._certs / "ca.crt"),
            *("--auth-supernode-private-key", self.key(number)),
            *("--node-config", config),
            *more,
        )

    def watch(self) -> Watch:
        """Return a context manager in which nodes that end by themselves are started again."""

        def nodes() -> dict[str, psutil.Popen]:
            return {n: process for n, process in self.running.items() if n.startswith("node-")}

        def start(name: str) -> None:
            self.start_node(int(name.removeprefix("node-")))

        return Watch(nodes, start, lambda name: self.log(name).strip().rpartition("\n")[2])

    def node_options(self) -> tuple[str, ...]:
        """Return the options of every SuperNode: the SuperLink's door, and a free port."""
        return ("--superlink", self.door, "--port", str(free_port()))


def run(
    config: str,
    overrides: Sequence[str],
    supernodes: int | None,
    data: Sequence[Path],
    out: str | None,
    again: bool,
    reuse: bool,
    logs: Path | None,
) -> None:
    """Run a configuration on processes of this machine; see `fedalign deploy local`.

    The run's name gets the suffix `-deployed`, so that its folder differs from that of a simulated
    run.

    Raises:
        InputError: the run has finished, its code or data have changed since, and neither `again`
            nor `reuse` is given.
    """
    planned = _planned(config, overrides, supernodes, data, out)
    folder = folder_of(planned)
    if not again and not reuse:
        refuse_changed([planned])
    if is_finished(folder) and not again:
        own = " (the data of its nodes were not compared)" if data else ""
        print(f"{folder} is finished already{own}; use --again to repeat it")
        return
    if again:
        forget(planned)
    count = planned.num_clients
    states = str(folder / STATES)
    nodes: list[dict[str, Setting]] = [
        {"partition-id": i, "state-dir": states} for i in range(count)
    ]
    for i, node in enumerate(nodes):
        node |= {"data-dir": str(data[i].resolve())} if data else {"num-partitions": count}
    print(f"starting a SuperLink and {count} SuperNodes", flush=True)
    with Local(nodes, logs) as local, local.watch():
        follow(local.superlink, planned)


def _planned(
    config: str,
    overrides: Sequence[str],
    supernodes: int | None,
    data: Sequence[Path],
    out: str | None,
) -> Config:
    """Return the configuration with one client for each node and an absolute path in `out`."""
    for folder in data:
        if not folder.is_dir():
            raise InputError(f"--data: {str(folder)!r} is not a folder")
    if data and supernodes not in (None, len(data)):
        raise InputError(f"--supernodes: {supernodes}, but --data names {len(data)} folders")
    given = parse_overrides(overrides) | ({} if out is None else {"out": out})
    count = supernodes or len(data)
    given |= {"num_clients": count} if count else {}
    planned = read(config, given)
    # The processes start in another folder.
    full = str(Path(planned.out).expanduser().resolve())
    return planned.model_copy(update={"out": full, "name": f"{planned.name}-deployed"})
