"""The services of a compose file as processes on loopback, each in a folder of its own.

A service finds in its folder what is mounted into its container, under the same names, and its
paths are rewritten to begin there; `superlink:8000` becomes a free port. The image's environment,
the commands, the mounts and the health checks are those of the files.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from check import files
from fedalign.deploy.processes import PATIENCE, Processes, free_port
from fedalign.deploy.superlink import environment, program

SUPERLINK = "superlink"


class StandIn(Processes):
    """The services of a compose file without an engine; when left, nothing of them is there.

    Args:
        spec: the compose file, filled in.
        machine: folder that relative paths of the file begin in.
    """

    def __init__(self, spec: Mapping[str, Any], machine: Path):
        super().__init__()
        self.spec, self.machine = spec, machine
        self.ports = {name: free_port() for name in spec["services"]}

    def run(self, name: str, *more: str) -> str:
        """Return what a service prints that ends by itself; as `docker compose run --rm`."""
        command = self._command(name, *more)
        done = subprocess.run(
            command,
            cwd=self._lay(name),
            env=self._environment(name),
            capture_output=True,
            text=True,
            timeout=10 * PATIENCE,
        )
        assert done.returncode == 0, f"{name}: exit code {done.returncode}: {done.stderr.strip()}"
        return done.stdout

    def up(self, name: str) -> None:
        """Start a service and wait until its health check passes; as `docker compose up`."""
        _, *options = command = self._command(name)
        told = self._environment(name)
        self.start(name, Path(command[0]).name, *options, cwd=self._lay(name), env=told)
        test = self._words(name, self.spec["services"][name]["healthcheck"]["test"][1:])
        until = time.monotonic() + PATIENCE
        while subprocess.run(test, env=told, capture_output=True).returncode:
            late = self.running[name].poll() is not None or time.monotonic() > until
            assert not late, f"{name} is not healthy:\n{self.log(name)}"
            time.sleep(0.2)

    def down(self, name: str) -> float:
        """Return after how many seconds a service ended that is told so as an engine does."""
        begin = time.monotonic()
        self.running[name].send_signal(signal.SIGTERM)  # to the first process and no other
        grace = float(self.spec["services"][name]["stop_grace_period"].removesuffix("s"))
        try:
            self.running[name].wait(grace)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{name} did not end within {grace:.0f} s") from None
        took = time.monotonic() - begin
        self.stop(name)  # and all that it started, whose end a container's is too
        return took

    def strays(self) -> list[str]:
        """Return files that were written where a container cannot write: into the image."""
        found = []
        for name in self.spec["services"]:
            for folder, _, names in os.walk(self.folder / name):
                inside = Path(folder).relative_to(self.folder / name)
                if inside.parts[:1] != ("tmp",):
                    written = [file for file in names if not (Path(folder) / file).is_symlink()]
                    found += [f"{name}:/{inside / file}" for file in written]
        return found

    def left(self) -> list[str]:
        """Return the processes that still run out of these folders."""
        found = []
        for process in psutil.process_iter(["environ", "cmdline", "status"]):
            told = process.info["environ"] or {}
            if str(self.folder) in told.get("FLWR_HOME", "") and process.pid != os.getpid():
                found.append(" ".join(process.info["cmdline"] or []))
        return found

    def _lay(self, name: str) -> Path:
        """Return the folder that a service starts in, with all that is mounted in its place."""
        root = self.folder / name
        for target, (source, _) in files.mounts(self.spec, name).items():
            there = self.machine / source
            assert there.exists(), f"{name}: {source} is to be mounted and is not there"
            place = root / target[1:]
            place.parent.mkdir(parents=True, exist_ok=True)
            if not place.is_symlink():
                place.symlink_to(there)
        (root / "tmp").mkdir(parents=True, exist_ok=True)
        start = root / self.spec["services"][name].get("working_dir", "/app")[1:]
        start.mkdir(parents=True, exist_ok=True)
        return start

    def _command(self, name: str, *more: str) -> list[str]:
        return self._words(name, files.words(self.spec["services"][name], *more))

    def _words(self, name: str, words: list[str]) -> list[str]:
        first, *rest = words
        return [program(first), *(self._here(name, word) for word in rest)]

    def _environment(self, name: str) -> dict[str, str]:
        told = files.environment() | self.spec["services"][name].get("environment", {})
        told = {key: self._here(name, value) for key, value in told.items() if key != "PATH"}
        told["PYTHONPATH"] += f"{os.pathsep}{files.HOME}"
        told["TMPDIR"] = str(self.folder / name / "tmp")
        return {"PATH": environment(self.folder)["PATH"]} | told

    def _here(self, name: str, word: str) -> str:
        """Return a word of a command with addresses and paths that hold on this machine."""
        port = self.ports[SUPERLINK]
        word = re.sub(r"\b(superlink|localhost):8000\b", f"127.0.0.1:{port}", word)
        word = word.replace("--port=8000", f"--port={port}").replace("0.0.0.0", "127.0.0.1")
        word = re.sub(r"\b9094\b", str(self.ports[name]), word)
        # A path that is not mounted here is the SuperLink's: where the results go, for one.
        targets = dict.fromkeys([*files.mounts(self.spec, SUPERLINK), "/tmp"], SUPERLINK)
        targets |= dict.fromkeys([*files.mounts(self.spec, name), "/tmp"], name)
        path = re.compile(rf"(?<![\w./])({'|'.join(map(re.escape, targets))})(?=[/\" ]|$)")
        return path.sub(lambda m: f"{self.folder / targets[m[1]]}{m[1]}", word)
