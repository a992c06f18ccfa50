"""Run the services of a compose file as processes on loopback, each in its own folder.

The folder of a service stands in for its container's file system: mounts are links with the same
names, and paths in commands are rewritten to begin there. `superlink:8000` and `localhost:8001`
become free ports. The
image's environment, the commands, the mounts and the health checks are those of the files.
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
    """The services of a compose file without a Docker engine; leaving the context removes them.

    Args:
        spec: the compose file, with variables replaced.
        machine: folder to which paths of the file are relative.
    """

    def __init__(self, spec: Mapping[str, Any], machine: Path):
        super().__init__()
        self.spec, self.machine = spec, machine
        self.ports = {name: free_port() for name in spec["services"]}
        self.loopback = free_port()  # of the SuperLink's own address

    def run(self, name: str, *more: str) -> str:
        """Run a service that ends by itself, like `docker compose run --rm`; return its output."""
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
        """Start a service and wait until its health check passes, like `docker compose up`."""
        _, *options = command = self._command(name)
        env = self._environment(name)
        self.start(name, Path(command[0]).name, *options, cwd=self._lay(name), env=env)
        test = self._words(name, self.spec["services"][name]["healthcheck"]["test"][1:])
        until = time.monotonic() + PATIENCE
        while subprocess.run(test, env=env, capture_output=True).returncode:
            late = self.running[name].poll() is not None or time.monotonic() > until
            assert not late, f"{name} is not healthy:\n{self.log(name)}"
            time.sleep(0.2)

    def down(self, name: str) -> float:
        """Stop a service as an engine does; return the seconds until it has ended."""
        begin = time.monotonic()
        self.running[name].send_signal(signal.SIGTERM)  # only to the first process
        grace = float(self.spec["services"][name]["stop_grace_period"].removesuffix("s"))
        try:
            self.running[name].wait(grace)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{name} did not end within {grace:.0f} s") from None
        took = time.monotonic() - begin
        self.stop(name)  # and its descendants, which end with a container
        return took

    def strays(self) -> list[str]:
        """Return files written into the image, where a container could not write."""
        found = []
        for name in self.spec["services"]:
            for folder, _, names in os.walk(self.folder / name):
                inside = Path(folder).relative_to(self.folder / name)
                if inside.parts[:1] != ("tmp",):
                    written = [file for file in names if not (Path(folder) / file).is_symlink()]
                    found += [f"{name}:/{inside / file}" for file in written]
        return found

    def left(self) -> list[str]:
        """Return the command lines of processes that still run in these folders."""
        found = []
        for process in psutil.process_iter(["environ", "cmdline", "status"]):
            env = process.info["environ"] or {}
            if str(self.folder) in env.get("FLWR_HOME", "") and process.pid != os.getpid():
                found.append(" ".join(process.info["cmdline"] or []))
        return found

    def _lay(self, name: str) -> Path:
        """Return the working directory of a service, after linking all its mounts."""
        root = self.folder / name
        for target, (source, _) in files.mounts(self.spec, name).items():
            there = self.machine / source
            assert there.exists(), f"{name}: {source} should be mounted but does not exist"
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
        env = files.environment() | self.spec["services"][name].get("environment", {})
        env = {key: self._here(name, value) for key, value in env.items() if key != "PATH"}
        env["PYTHONPATH"] += f"{os.pathsep}{files.HOME}"
        env["TMPDIR"] = str(self.folder / name / "tmp")
        return {"PATH": environment(self.folder)["PATH"]} | env

    def _here(self, name: str, word: str) -> str:
        """Return a word of a command with the addresses and paths of this machine."""
        port = self.ports[SUPERLINK]
        word = re.sub(r"\b(superlink|localhost|0\.0\.0\.0):8000\b", f"127.0.0.1:{port}", word)
        word = re.sub(r"\blocalhost:8001\b", f"127.0.0.1:{self.loopback}", word)
        word = word.replace("--port=8001", f"--port={self.loopback}")
        word = re.sub(r"\b9094\b", str(self.ports[name]), word)
        # A path that the service does not mount is the SuperLink's, such as that of the results.
        targets = dict.fromkeys([*files.mounts(self.spec, SUPERLINK), "/tmp"], SUPERLINK)
        targets |= dict.fromkeys([*files.mounts(self.spec, name), "/tmp"], name)
        path = re.compile(rf"(?<![\w./])({'|'.join(map(re.escape, targets))})(?=[/\" ]|$)")
        return path.sub(lambda m: f"{self.folder / targets[m[1]]}{m[1]}", word)
