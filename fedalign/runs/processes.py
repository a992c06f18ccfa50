"""Processes of one machine that each take one run after another."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fedalign.settings.config import Config
from fedalign.settings.registry import HOME

SERVE = (sys.executable, "-c", "from fedalign.runs.worker import main; main()")


@dataclass(frozen=True)
class Command:
    """The command that asks for runs.

    Attributes:
        words: of it, for manifests.
        folder: in which it was given.
        variables: of its environment, which a process on another machine lacks.
    """

    words: list[str] = field(default_factory=lambda: list(sys.argv))
    folder: str = field(default_factory=lambda: str(Path.cwd()))
    variables: dict[str, str] = field(default_factory=dict)


class Process:
    """A process that takes one run after another; a `Worker`.

    Args:
        threads: on which PyTorch computes.
        crowded: whether other runs go on beside those of this process.
        asked: by which command.
    """

    begun = True

    def __init__(self, threads: int, crowded: bool, asked: Command):
        self._folder, (ours, theirs) = TemporaryDirectory(prefix="fedalign-"), os.pipe()
        self._log = Path(self._folder.name) / "log"
        paths = [str(HOME), *filter(None, [os.environ.get("PYTHONPATH")])]
        own = {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(paths)}
        with self._log.open("ab") as errors:
            self.process = subprocess.Popen(
                [*SERVE, str(theirs), "1" if crowded else "0", *asked.words],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=[theirs],
                cwd=asked.folder,
                env=os.environ | asked.variables | own,
                start_new_session=True,
            )
        os.close(theirs)
        self._answers = os.fdopen(ours)

    def fileno(self) -> int:
        """Return the file that can be read once a run has ended, or the process."""
        return self._answers.fileno()

    def give(self, config: Config) -> None:
        """Let the process run a configuration."""
        self.send(text_of(config))

    def send(self, text: str) -> None:
        """Let the process run a configuration, which is given as a line of JSON."""
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has died, which `take` will tell
            self.process.stdin.write(text.encode() + b"\n")
            self.process.stdin.flush()

    def take(self) -> tuple[str | None, bool]:
        """Return why the run failed, if it did, and whether the process takes another one."""
        try:
            answer: dict[str, Any] = json.loads(self._answers.readline())
        except ValueError:  # nothing, or half a line, of a process that has died
            self.process.wait()
            return self._reason(), False
        return answer["error"], bool(answer["warm"])

    def stop(self) -> None:
        """Ask the process to stop, by a signal that scripts do not ignore as they do SIGINT."""
        self._signal(signal.SIGTERM)

    def join(self, seconds: float) -> None:
        """Wait so long for the process."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)

    def end(self) -> None:
        """Kill the process and what it has started."""
        self._signal(signal.SIGKILL)
        self.process.wait()
        self._answers.close()
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):
                self.process.stdin.close()
        self._folder.cleanup()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def _reason(self) -> str:
        if self.process.returncode < 0:
            return f"killed by {signal.Signals(-self.process.returncode).name}"
        lines = self._log.read_text("utf-8", "replace").split("\n")
        messages = [line.removeprefix("error: ") for line in lines if line.strip(" \0")]
        return messages[-1] if messages else f"exit code {self.process.returncode}"


@dataclass
class Processes:
    """So many processes of this machine; a `Crew`."""

    jobs: int
    place: str = ""

    def hire(self, config: Config) -> Process:
        """Start a process."""
        return Process(config.evaluation.threads, self.jobs > 1, Command())


def text_of(config: Config) -> str:
    """Return a configuration as one line."""
    return json.dumps(config.model_dump())
