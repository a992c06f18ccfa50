"""What is asked of a SuperLink, by Flower's own command: let nodes in, start a run, follow it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from fedalign import __version__
from fedalign.deploy.health import is_up
from fedalign.errors import FedalignError, InputError
from fedalign.settings.config import Config

CHATTER = re.compile(r"(\x1b\[92m)?INFO |Using SuperLink: |Successfully installed ")
RAISED = "ServerApp raised an exception"
OURS = re.compile(r"fedalign\.[\w.]+Error: ")
# Flower's words for a ServerApp that is gone, and for one that was ended with its SuperLink.
LOST = ("No heartbeat received", "Task failed with unknown error")
ATTEMPTS = 5
SETTLE = 30.0  # seconds in which a ServerApp that lives after all notices that it is given up
PATIENCE = 300.0  # seconds for a SuperLink to be there again
HOME = "FLWR_HOME"  # names a folder of Flower's own
NAME = "fedalign"  # of the connection, in Flower's configuration
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}


def program(name: str) -> str:
    """Return the path of a command that lies beside this Python."""
    return str(Path(sysconfig.get_path("scripts")) / name)


def environment(home: Path) -> dict[str, str]:
    """Return the environment of Flower's commands, which keep their files in `home`.

    They find parts of the user's own as fedalign itself does: in the folder that it was called in.
    """
    paths = {
        "PATH": [sysconfig.get_path("scripts"), os.environ.get("PATH")],  # they call one another
        "PYTHONPATH": [os.environ.get("PYTHONPATH"), str(Path.cwd())],
    }
    found = {key: os.pathsep.join(filter(None, places)) for key, places in paths.items()}
    kept = {key: value for key, value in os.environ.items() if key != "FLWR_LOG_LEVEL"}
    return kept | QUIET | found | {HOME: str(home), "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True)
class SuperLink:
    """A SuperLink that is up somewhere.

    Attributes:
        address: `host:port`.
        authority: the certificate of who signed its certificate.
        home: a folder for Flower's configuration.
    """

    address: str
    authority: Path
    home: Path

    def is_up(self) -> bool:
        """Return whether it answers; `FedalignError` if somebody else does."""
        return is_up(self.address, self.authority)

    def register(self, public_key: Path) -> str | None:
        """Return the id of the node with this key, which is let in from now on; None: it was."""
        if not public_key.is_file():
            raise InputError(f"{public_key}: no such file; `fedalign deploy key` makes it")
        try:
            words = ("supernode", "register", str(public_key), NAME, "--name", public_key.stem)
            return str(self._ask(*words)["node-id"])
        except FedalignError as error:
            if "already in use" in str(error):
                return None
            raise

    def unregister(self, node: str) -> None:
        """Let a node in no more."""
        self._ask("supernode", "unregister", node, NAME)

    def submit(self, config: Config) -> str:
        """Return the id of a run that has been started."""
        app = self.home / "app"
        write_app(app, config.run_config())
        return str(self._ask("run", str(app), NAME)["run-id"])

    def log(self, run: str) -> Iterator[str]:
        """Yield the lines that a run prints until it is over, each once.

        Raises:
            FedalignError: the SuperLink is away for longer than `PATIENCE`.
        """
        seen, deadline = 0, time.monotonic() + PATIENCE
        while True:
            for place, line in enumerate(self._lines(run)):
                if place >= seen:
                    seen += 1
                    yield line
            try:
                if self.status(run)[0].startswith("finished"):
                    return
                deadline = time.monotonic() + PATIENCE
            except FedalignError:  # it may be starting again
                if time.monotonic() > deadline:
                    raise
            time.sleep(1)

    def status(self, run: str) -> tuple[str, str]:
        """Return where a run stands, such as `finished:failed`, and what Flower says of it."""
        (told,) = self._ask("list", "--run-id", run, NAME)["runs"]
        return told["status"], told["status-details"]

    def nodes(self) -> list[dict[str, Any]]:
        """Return what the SuperLink knows of its nodes."""
        found: list[dict[str, Any]] = self._ask("supernode", "list", NAME)["nodes"]
        return found

    def _lines(self, run: str) -> Iterator[str]:
        command = [program("flwr"), "log", run, NAME, "--stream"]
        with subprocess.Popen(
            command,
            env=self._environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            assert process.stdout is not None
            yield from process.stdout

    def _ask(self, *words: str) -> dict[str, Any]:
        """Return Flower's answer; `FedalignError` with its own words if it is not a good one."""
        done = subprocess.run(
            [program("flwr"), *words, "--format", "json"],
            env=self._environment(),
            capture_output=True,
            text=True,
        )
        start = done.stdout.find("{")
        try:
            told: dict[str, Any] = json.loads(done.stdout[start:]) if start >= 0 else {}
        except json.JSONDecodeError:
            told = {}
        if done.returncode or not told.get("success"):
            why = told.get("error-message") or (done.stdout + done.stderr).strip()
            raise FedalignError(f"flwr {' '.join(words[:2])}: {why}")
        return told

    def _environment(self) -> dict[str, str]:
        self.home.mkdir(parents=True, exist_ok=True)
        known = {"address": self.address, "root-certificates": str(self.authority.resolve())}
        told = {"superlink": {"default": NAME, NAME: known}}
        (self.home / "config.toml").write_text(tomli_w.dumps(told), "utf-8")
        return environment(self.home)


@contextmanager
def connected(address: str, authority: Path) -> Iterator[SuperLink]:
    """Yield a SuperLink that is up.

    Raises:
        InputError: the certificate is not there.
        FedalignError: nobody answers, or another one than the certificate's.
    """
    if not authority.is_file():
        raise InputError(f"--root-certificates: {str(authority)!r} is no file")
    with tempfile.TemporaryDirectory(prefix="fedalign-") as home:
        link = SuperLink(address, authority, Path(home))
        if not link.is_up():
            raise FedalignError(f"--superlink: nobody answers at {address}")
        yield link


def follow(link: SuperLink, config: Config) -> None:
    """Submit a run and print what it prints, without Flower's chatter.

    One that was lost with the SuperLink's machine, or while the SuperLink was away, is submitted
    again, and goes on from its last checkpoint.

    Raises:
        FedalignError: it failed, or was lost once too often.
    """
    for attempt in range(1, ATTEMPTS + 1):
        run = link.submit(config)
        show(link.log(run))
        status, details = link.status(run)
        if status == "finished:completed":
            return
        if not details.startswith(LOST) or attempt == ATTEMPTS:
            told = details.removeprefix("ServerApp failed with exception: ")
            raise FedalignError(f"run {run} {status.removeprefix('finished:')}: {told}")
        print("the run was lost; it is submitted again", flush=True)
        time.sleep(SETTLE)


def show(lines: Iterable[str]) -> None:
    """Print a run's lines without Flower's chatter, and without tracebacks of our own errors."""
    raised: list[str] = []
    for line in lines:
        if raised or RAISED in line:
            raised.append(line)
        elif not CHATTER.match(line):
            print(line, end="", flush=True)
    if not any(map(OURS.match, raised)):  # what ours say is said once more, at the end
        print("".join(raised), end="", flush=True)


def write_app(folder: Path, run_config: Mapping[str, Any]) -> None:
    """Write a Flower app into `folder` that holds settings and no code.

    What runs is the fedalign that is installed on the SuperLink and on each node, and nothing that
    came over the wire.
    """
    components = {
        "serverapp": "fedalign.server_app:app",
        "clientapp": "fedalign.client_app:app",
    }
    manifest = {
        "project": {
            "name": "fedalign",
            "version": __version__,
            "description": "Settings of a run; the code is installed where it runs",
            "license": "Apache-2.0",
            "dependencies": [],
        },
        "tool": {
            "flwr": {
                "app": {
                    "publisher": "fedalign",
                    "components": components,
                    "config": dict(run_config),
                }
            }
        },
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(tomli_w.dumps(manifest), "utf-8")
