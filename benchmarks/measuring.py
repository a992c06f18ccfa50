"""The cost of runs in fresh processes: seconds, CPU time and memory."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import psutil
from processes import HERE, environment, lines_in, seconds_in
from workloads import settings_of


@dataclass(frozen=True)
class Cost:
    """The cost of a run: seconds to the end of the first round, then per round, and peak MB."""

    first: float
    wall: float
    cpu: float
    memory: float


def measure(name: str, engine: str, rounds: int, threads: int, more: list[str]) -> Cost:
    """Return the cost of one run in fresh processes; `threads` are those of the plain loop."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        if engine == "plain":
            log = out / "seconds"
            words = [name, str(log), str(rounds), str(threads), *more]
            command = [sys.executable, str(HERE / "plain_loop.py"), *words]
            return _watch(command, lambda: lines_in(log), rounds)
        given = settings_of(name) | {"rounds": rounds, "simulation.backend": engine}
        yaml = out / "empty.yaml"
        yaml.touch()
        code = "from fedalign.cli import main; main()"
        words = [*(f"{key}={value}" for key, value in given.items()), *more, "--out", folder]
        command = [sys.executable, "-c", code, "run", str(yaml), *words]
        return _watch(command, lambda: seconds_in(out), rounds)


def _watch(command: list[str], finished: Callable[[], list[float]], rounds: int) -> Cost:
    """Return the cost of a command; `finished` returns the seconds of each finished round."""
    started = time.perf_counter()
    process = psutil.Popen(command, stdout=subprocess.DEVNULL, cwd=HERE, env=environment())
    used: dict[tuple[int, float], float] = {}
    seconds: list[float] = []
    first = at_first = at_last = memory = looked = 0.0
    while process.poll() is None and len(seconds) < rounds:
        time.sleep(0.02)
        seconds = finished()
        processes = family(process)
        for one in processes:
            with suppress(psutil.Error):
                times = one.cpu_times()
                used[one.pid, one.create_time()] = times.user + times.system
        at_last = sum(used.values())
        if seconds and not first:
            first, at_first = time.perf_counter() - started, at_last
        if time.perf_counter() - looked > 0.5 or len(seconds) == rounds:
            looked, memory = time.perf_counter(), max(memory, sum(map(memory_of, processes)))
    if process.wait() or len(seconds) < rounds:
        raise SystemExit(f"{command} failed")
    return Cost(first, median(seconds[1:]), (at_last - at_first) / (rounds - 1), memory)


def family(process: psutil.Process) -> list[psutil.Process]:
    """Return a process and all that it has started; none once it has ended."""
    with suppress(psutil.NoSuchProcess):
        return [process, *process.children(recursive=True)]
    return []


def memory_of(process: psutil.Process) -> float:
    """Return a process' share of memory in MB; 0 once it has ended."""
    with suppress(psutil.Error):
        return float(process.memory_full_info().pss) / 1e6
    return 0.0
