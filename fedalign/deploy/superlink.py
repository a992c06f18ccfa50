"""Control a SuperLink by Flower's own command: register nodes, start a run, follow its log."""

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

# Lines that Flower adds to a run's log.
CHATTER = re.compile(r"(\x1b\[92m)?INFO |Using SuperLink: |Successfully installed ")
RAISED = "ServerApp raised an exception"
OURS = re.compile(r"fedalign\.[\w.]+Error: ")
# What Flower says of a ServerApp that vanished, and of one that ended with its SuperLink.
LOST = ("No heartbeat received", "Task failed with unknown error")
ATTEMPTS = 5
SETTLE = 30.0  # seconds in which a ServerApp that is still alive notices that its run was given up
PATIENCE = 300.0  # seconds that a SuperLink has to restart
HOME = "FLWR_HOME"  # the variable that names Flower's configuration folder
NAME = "fedalign"  # of the connection in Flower's configuration
QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}


def program(name: str) -> str:
    """Return the path of a command of this Python installation."""
    return str(Path(sysconfig.get_path("scripts")) / name)


def environment(home: Path) -> dict[str, str]:
    """Return the environment for Flower's commands, with `home` as Flower's folder.

    The current folder is on their `PYTHONPATH`, so that they find the user's own parts as fedalign
    does.
    """
    paths = {
        "PATH": [sysconfig.get_path("scripts"), os.environ.get("PATH")],  # they call one another
        "PYTHONPATH": [os.environ.get("PYTHONPATH"), str(Path.cwd())],
    }
    joined = {key: os.pathsep.join(filter(None, places)) for key, places in paths.items()}
    inherited = {key: value for key, value in os.environ.items() if key != "FLWR_LOG_LEVEL"}
    return inherited | QUIET | joined | {HOME: str(home), "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True)
class SuperLink:
    """A connection to a running SuperLink.

    Its methods raise `FedalignError`, with Flower's words, if Flower's command fails.

    Attributes:
        address: `host:port` of its control API.
        authority: the certificate of the authority that signed its certificate.
        home: a folder for Flower's configuration.
    """

    address: str
    authority: Path
    home: Path

    def is_up(self) -> bool:
        """Return whether it answers; `FedalignError` if its certificate is by another authority."""
        return is_up(self.address, self.authority)

    def register(self, public_key: Path) -> str | None:
        """Register the node with this key; return its id, or None if it was registered already."""
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
        """Unregister a node, so that it can no longer connect."""
        self._ask("supernode", "unregister", node, NAME)

    def submit(self, config: Config) -> str:
        """Start a run and return its id."""
        app = self.home / "app"
        write_app(app, config.run_config())
        return str(self._ask("run", str(app), NAME)["run-id"])

    def log(self, run: str) -> Iterator[str]:
        """Yield each line of a run's log once, until the run ends.

        Raises:
            FedalignError: the SuperLink does not answer for longer than `PATIENCE`.
        """
        seen, deadline = 0, time.monotonic() + PATIENCE
        while True:
            for number, line in enumerate(self._lines(run)):
                if number >= seen:
                    seen += 1
                    yield line
            try:
                if self.status(run)[0].startswith("finished"):
                    return
                deadline = time.monotonic() + PATIENCE
            except FedalignError:  # it may be restarting
                if time.monotonic() > deadline:
                    raise
            time.sleep(1)

    def status(self, run: str) -> tuple[str, str]:
        """Return the status of a run, such as `finished:failed`, and Flower's details on it."""
        (entry,) = self._ask("list", "--run-id", run, NAME)["runs"]
        return entry["status"], entry["status-details"]

    def nodes(self) -> list[dict[str, Any]]:
        """Return the SuperLink's entry for each registered node."""
        entries: list[dict[str, Any]] = self._ask("supernode", "list", NAME)["nodes"]
        return entries

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
            try:
                yield from process.stdout
            finally:
                process.terminate()  # else a signal to this process waits for the run's next line

    def _ask(self, *words: str) -> dict[str, Any]:
        """Return the JSON that Flower's command prints; `FedalignError` if it reports an error."""
        done = subprocess.run(
            [program("flwr"), *words, "--format", "json"],
            env=self._environment(),
            capture_output=True,
            text=True,
        )
        start = done.stdout.find("{")
        try:
            answer: dict[str, Any] = json.loads(done.stdout[start:]) if start >= 0 else {}
        except json.JSONDecodeError:
            answer = {}
        if done.returncode or not answer.get("success"):
            reason = answer.get("error-message") or (done.stdout + done.stderr).strip()
            raise FedalignError(f"flwr {' '.join(words[:2])}: {reason}")
        return answer

    def _environment(self) -> dict[str, str]:
        self.home.mkdir(parents=True, exist_ok=True)
        link = {"address": self.address, "root-certificates": str(self.authority.resolve())}
        config = {"superlink": {"default": NAME, NAME: link}}
        (self.home / "config.toml").write_text(tomli_w.dumps(config), "utf-8")
        return environment(self.home)


@contextmanager
def connected(address: str, authority: Path) -> Iterator[SuperLink]:
    """Yield a connection to the SuperLink at `address`.

    Raises:
        InputError: the file `authority` does not exist.
        FedalignError: nothing answers, or a SuperLink whose certificate is by another authority.
    """
    if not authority.is_file():
        raise InputError(f"--root-certificates: {str(authority)!r} is not a file")
    with tempfile.TemporaryDirectory(prefix="fedalign-") as home:
        link = SuperLink(address, authority, Path(home))
        if not link.is_up():
            raise FedalignError(f"--superlink: nothing answers at {address}")
        yield link


def follow(link: SuperLink, config: Config) -> None:
    """Submit a run and print its log, without the lines that Flower adds.

    A run that was lost because the SuperLink or its machine went down is submitted again, up to
    `ATTEMPTS` times, and continues from its last checkpoint.

    Raises:
        FedalignError: the run failed, or was lost on the last attempt.
    """
    for attempt in range(1, ATTEMPTS + 1):
        run = link.submit(config)
        show(link.log(run))
        status, details = link.status(run)
        if status == "finished:completed":
            return
        if not details.startswith(LOST) or attempt == ATTEMPTS:
            reason = details.removeprefix("ServerApp failed with exception: ")
            raise FedalignError(f"run {run} {status.removeprefix('finished:')}: {reason}")
        print("the run was lost; submitting it again", flush=True)
        time.sleep(SETTLE)


def show(lines: Iterable[str]) -> None:
    """Print a run's log without Flower's own lines, and without tracebacks of fedalign's errors."""
    raised: list[str] = []
    for line in lines:
        if raised or RAISED in line:
            raised.append(line)
        elif not CHATTER.match(line):
            print(line, end="", flush=True)
    if not any(map(OURS.match, raised)):  # the caller prints their message
        print("".join(raised), end="", flush=True)


def write_app(folder: Path, run_config: Mapping[str, Any]) -> None:
    """Write a Flower app with settings but no code into `folder`.

    SuperLink and nodes run the fedalign that they have installed, not code that was sent to them.
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
