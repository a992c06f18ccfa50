"""Processes that are stopped together, with all processes that they have started."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import psutil

from fedalign.deploy.superlink import HOME, environment, program

PATIENCE = 60.0  # seconds that a process has to start
PORTS = range(20_000, 32_000)  # below those that systems choose, above those of Ray's workers
GRACE = 5.0  # seconds that a process has to end after SIGTERM


class Processes:
    """Named processes in a temporary folder; leaving the context stops them and removes the folder.

    Args:
        logs: folder for their logs; None: inside the temporary folder.

    Attributes:
        folder: the temporary folder.
        running: the processes by name.
    """

    def __init__(self, logs: Path | None = None):
        self.folder = Path(tempfile.mkdtemp(prefix="fedalign-"))
        self.logs = logs or self.folder / "logs"
        self.running: dict[str, psutil.Popen] = {}

    def __enter__(self) -> Self:
        self.logs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop all processes and their descendants, and remove the temporary folder."""
        self._end(list(self.running), GRACE)
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(
        self,
        name: str,
        command: str,
        *options: str | Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Start a command of this Python installation; its output goes to its log.

        Args:
            name: of the process.
            command: such as `flower-superlink`.
            options: of the command.
            cwd: working directory; by default the temporary folder.
            env: its whole environment; by default that of Flower's commands.
        """
        with (self.logs / f"{name}.log").open("ab") as log:
            self.running[name] = psutil.Popen(
                [program(command), *map(str, options)],
                cwd=cwd or self.folder,
                env=env or environment(self.folder / name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that Ctrl-C does not reach it
            )

    def stop(self, name: str) -> None:
        """Stop a process and its descendants, first by SIGTERM."""
        self._end([name], GRACE)

    def kill(self, name: str) -> None:
        """Kill a process and its descendants at once, like a power failure."""
        self._end([name], 0)

    def log(self, name: str) -> str:
        """Return the log of a process."""
        return (self.logs / f"{name}.log").read_text("utf-8", errors="replace")

    def _end(self, names: Sequence[str], grace: float) -> None:
        """Send SIGTERM unless grace is 0, wait, then kill the processes and their descendants."""
        ended = [self.running.pop(name) for name in names]
        for process in ended if grace else ():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.terminate()
        psutil.wait_procs(ended if grace else (), grace)
        while alive := [p for name in names for p in self._family(name)] or _alive(ended):
            for process in alive:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(alive, GRACE)

    def _family(self, name: str) -> list[psutil.Process]:
        """Return all live processes with a named process's environment, orphans included."""
        home, processes = self.folder / name, psutil.process_iter(["environ"])
        homes = {p: (p.info["environ"] or {}).get(HOME, "") for p in processes}
        return _alive([p for p, folder in homes.items() if Path(folder).is_relative_to(home)])


def free_port() -> int:
    """Return a free port on loopback that the system gives to nobody.

    A port that the system chooses may be given to another process before it is bound again.
    """
    while True:
        port = PORTS.start + secrets.randbelow(len(PORTS))
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port


def _alive(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    alive = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                alive.append(process)
    return alive
