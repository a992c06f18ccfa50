"""Processes of one folder that are stopped together, with all that they start."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import psutil

from fedalign.deploy.superlink import HOME, environment, program

PATIENCE = 60.0  # seconds to wait for a process to be up
GRACE = 5.0  # seconds that a process has to end by itself


class Processes:
    """Processes by name in a temporary folder; when left, they and the folder are gone.

    Args:
        logs: folder for what they print; None: nowhere that stays.
    """

    def __init__(self, logs: Path | None = None):
        self.folder = Path(tempfile.mkdtemp(prefix="fedalign-"))
        self.logs = logs or self.folder / "logs"
        self.running: dict[str, psutil.Popen] = {}

    def __enter__(self) -> Self:
        self.logs.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        """Stop all processes and those that they started, and remove their files."""
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
        """Start a command that lies beside this Python; what it prints goes to its log.

        Args:
            name: of the process.
            command: such as `flower-superlink`.
            options: of the command.
            cwd: where it is started; the temporary folder if not said.
            env: all of its environment; that of Flower's commands if not said.
        """
        with (self.logs / f"{name}.log").open("ab") as log:
            self.running[name] = psutil.Popen(
                [program(command), *map(str, options)],
                cwd=cwd or self.folder,
                env=env or environment(self.folder / name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that an interrupt from the keyboard is ours alone
            )

    def stop(self, name: str) -> None:
        """Let a process end, and all that it started."""
        self._end([name], GRACE)

    def kill(self, name: str) -> None:
        """Kill a process and all that it started, as a machine that loses its power does."""
        self._end([name], 0)

    def log(self, name: str) -> str:
        """Return what a process has printed."""
        return (self.logs / f"{name}.log").read_text("utf-8", errors="replace")

    def _end(self, names: Sequence[str], grace: float) -> None:
        """End processes, those that like to by themselves, and all that they started."""
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
        """Return what runs in the environment of a process, its orphans among it."""
        home, found = self.folder / name, psutil.process_iter(["environ"])
        homes = {p: (p.info["environ"] or {}).get(HOME, "") for p in found}
        return _alive([p for p, own in homes.items() if Path(own).is_relative_to(home)])


def free_port() -> int:
    """Return a port of loopback that nobody listens on."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port: int = opened.getsockname()[1]
        return port


def _alive(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    alive = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                alive.append(process)
    return alive
