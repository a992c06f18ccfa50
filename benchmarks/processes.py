"""Processes that run workloads, and how long each may take."""

from __future__ import annotations

import csv
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import IO, Any

HERE = Path(__file__).resolve().parent
HOME = HERE.parent


def environment(given: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the environment of a run: these benchmarks and their checkout can be imported.

    They come before, and not instead of, what `PYTHONPATH` names already.
    """
    paths = [str(HOME), str(HERE), given.get("PYTHONPATH", "")]
    return {**given, "PYTHONPATH": os.pathsep.join(path for path in paths if path)}


def lines_in(path: Path) -> list[float]:
    """Return the numbers in a file, one a line; none if there is no such file."""
    return [float(line) for line in path.read_text().split()] if path.exists() else []


def seconds_in(out: Path) -> list[float]:
    """Return the seconds of each finished round of the run in this folder."""
    for path in out.glob("*/metrics.csv"):
        with path.open(newline="") as file:
            return [float(row["seconds"]) for row in csv.DictReader(file) if row["seconds"]]
    return []


LATE = "its process was not ready in time"


class Budget:
    """Seconds that are left of all."""

    def __init__(self, seconds: float):
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds left; less than 0 once they are over."""
        return self._end - time.monotonic()


@dataclass
class JobProcess:
    """A process of `engines.py`; `run` starts it if it is not there, or has ended."""

    log: IO[bytes]
    _process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process, which then imports what it needs."""
        self._process = subprocess.Popen(
            [sys.executable, str(HERE / "engines.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            cwd=HERE,
            env=environment(),
            bufsize=0,
            start_new_session=True,
        )
        self._ready = False

    def run(self, job: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Return what a job returned; after `seconds` the process is killed.

        The result then has an `error`, as it has if the process ended. A process that is not ready
        yet is left alone, for its next job. After a CUDA error nothing works in a process, so it is
        killed too.
        """
        if self._process is None or self._process.poll() is not None:
            self.start()
        assert self._process is not None
        assert self._process.stdin is not None
        end = time.monotonic() + seconds
        if not self._ready:
            if (answer := self._answer(end)) is None:
                return {"error": LATE}
            if "ready" not in answer:
                return answer
            self._ready = True
        self._process.stdin.write(json.dumps(job).encode() + b"\n")
        if (answer := self._answer(end)) is None:
            self.stop()
            return {"error": "stopped: no time left"}
        if "CUDA" in answer.get("error", ""):
            self.stop()
        return answer

    def _answer(self, end: float) -> dict[str, Any] | None:
        """Return what the process says until `end`; None if it says nothing."""
        assert self._process is not None
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(max(0.0, end - time.monotonic())):
                return None
        line = self._process.stdout.readline()
        if not line:
            self.stop()
            return {"error": f"its process ended with {self._process.wait()}; see the log"}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def stop(self) -> None:
        """Kill the process and what it started."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


@dataclass
class Outcome:
    """What came of one workload on one engine, over all of its runs.

    Attributes:
        seconds: of each round that counts.
        hashes: of the final model of each run.
        peaks: `host_mb` and `gpu_mb`, the largest.
        error: why a run has not come to its end; "" if all have.
        facts: what else an engine had to say.
    """

    seconds: list[float] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)
    peaks: dict[str, float] = field(default_factory=dict)
    error: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def milliseconds(self) -> float | None:
        """The median round; None if there is none."""
        return 1e3 * median(self.seconds) if self.seconds else None

    def add(self, answer: dict[str, Any], seconds: list[float], warm: int = 2) -> None:
        """Take what a run returned, and its rounds, the first of which warm up."""
        self.seconds += seconds[warm:] if len(seconds) > warm else seconds[1:]
        self.error = answer.pop("error", "")
        self.hashes += [answer.pop("hash")] if "hash" in answer else []
        for key in ("host_mb", "gpu_mb"):
            self.peaks[key] = max(self.peaks.get(key, 0.0), answer.pop(key, 0.0))
        self.facts |= answer


class JobProcesses:
    """One process for each name, kept for its next job."""

    def __init__(self, log: Path):
        self._log = log.open("ab")
        self._processes: dict[str, JobProcess] = {}

    def start(self, *names: str) -> None:
        """Start processes beside each other; importing takes seconds."""
        for name in names:
            self._processes[name] = JobProcess(self._log)
            self._processes[name].start()

    def run(self, name: str, job: dict[str, Any], outcome: Outcome, seconds: float) -> None:
        """Run a job in a process; add to `outcome` what came of it, however far it came."""
        process = self._processes.setdefault(name, JobProcess(self._log))
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            answer = process.run(job | {"out": folder}, seconds)
            outcome.add(answer, lines_in(Path(folder, "seconds")) or seconds_in(Path(folder)))

    def stop(self) -> None:
        """End all processes."""
        for process in self._processes.values():
            process.stop()
        self._log.close()
