"""Run several configurations at a time, in processes that each take one run after another."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fedalign.runs.paths import folder_of
from fedalign.settings.config import Config
from fedalign.settings.registry import HOME

SERVE = (sys.executable, "-c", "from fedalign.runs.worker import main; main()")
GRACE = 60.0  # seconds that interrupted runs have to stop
TICK = 0.5  # seconds between looks at what goes on
METRICS = "metrics.csv"  # grows with each round


class Worker:
    """A process that takes one run after another.

    Attributes:
        config: of the run that it has been given last.
    """

    config: Config

    def __init__(self, log: Path, threads: int, crowded: bool):
        self._log, (ours, theirs) = log, os.pipe()
        paths = [str(HOME), *filter(None, [os.environ.get("PYTHONPATH")])]
        own = {"OMP_NUM_THREADS": str(threads), "PYTHONPATH": os.pathsep.join(paths)}
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                [*SERVE, str(theirs), "1" if crowded else "0", *sys.argv],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=[theirs],
                env=os.environ | own,
                start_new_session=True,
            )
        os.close(theirs)
        self._answers = os.fdopen(ours)
        self._stirred, self._size = 0.0, -1

    def fileno(self) -> int:
        """Return the file that can be read once a run has ended, or the process."""
        return self._answers.fileno()

    def give(self, config: Config) -> None:
        """Let the process run a configuration."""
        self.config, self._stirred, self._size = config, time.monotonic(), -1
        assert self.process.stdin is not None
        with suppress(BrokenPipeError):  # it has died, which `take` will tell
            self.process.stdin.write(json.dumps(config.model_dump()).encode() + b"\n")
            self.process.stdin.flush()

    def take(self) -> tuple[str | None, bool]:
        """Return why the run failed, if it did, and whether the process takes another one."""
        try:
            answer: dict[str, Any] = json.loads(self._answers.readline())
        except ValueError:  # nothing, or half a line, of a process that has died
            self.process.wait()
            return self._reason(), False
        return answer["error"], bool(answer["warm"])

    def stalls(self, seconds: float) -> bool:
        """Return whether the run has finished no round for so long."""
        with suppress(OSError):
            size = (folder_of(self.config) / METRICS).stat().st_size
            if size != self._size:
                self._size, self._stirred = size, time.monotonic()
        return time.monotonic() - self._stirred > seconds

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process and all that it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def end(self, seconds: float = 0.0) -> None:
        """Wait so long for the process, then kill it and what it has started."""
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        self.signal(signal.SIGKILL)
        self.process.wait()
        self._answers.close()
        if self.process.stdin is not None:
            with suppress(BrokenPipeError):
                self.process.stdin.close()

    def _reason(self) -> str:
        if self.process.returncode < 0:
            return f"killed by {signal.Signals(-self.process.returncode).name}"
        lines = self._log.read_text("utf-8", "replace").split("\n")
        messages = [line.removeprefix("error: ") for line in lines if line.strip(" \0")]
        return messages[-1] if messages else f"exit code {self.process.returncode}"


def run_all(
    configs: Sequence[Config],
    jobs: int,
    stalled: float | None = None,
    watch: Callable[[Collection[Config]], None] = lambda _: None,
) -> Generator[tuple[Config, str | None], None, None]:
    """Yield each configuration when its run ends, with the reason if the run failed, else None.

    Runs share processes, see `fedalign.runs.worker`.
    Leaving the generator early, for example by Ctrl-C or SIGTERM, stops all runs, which keep their
    last finished round.

    Args:
        configs: what to run, in this order.
        jobs: number of runs at a time.
        stalled: seconds without a new round after which a run counts as failed; None: never.
        watch: called about twice a second with the configurations that run.
    """
    waiting, jobs = list(configs)[::-1], min(jobs, len(configs))
    busy: list[Worker] = []
    idle: list[Worker] = []
    with TemporaryDirectory(prefix="fedalign-") as folder, _stopping(busy, idle):
        while waiting or busy:
            while waiting and len(busy) < jobs:
                log, threads = Path(folder) / f"{len(waiting)}.log", waiting[-1].evaluation.threads
                worker = idle.pop() if idle else Worker(log, threads, jobs > 1)
                busy.append(worker)
                worker.give(waiting.pop())
            watch([worker.config for worker in busy])
            ended = wait([worker.fileno() for worker in busy], TICK)
            for worker in list(busy):
                if worker.fileno() in ended:
                    error, warm = worker.take()
                elif stalled is not None and worker.stalls(stalled):
                    error, warm = f"no round was finished in {stalled:g} seconds", False
                else:
                    continue
                busy.remove(worker)
                idle.append(worker) if warm else worker.end()
                yield worker.config, error


@contextmanager
def _stopping(busy: list[Worker], idle: list[Worker]) -> Iterator[None]:
    """Stop all processes on leaving; checkpoints stay, so that their runs can continue.

    A second Ctrl-C ends them at once.
    """
    try:
        yield
    finally:
        if busy:
            what = "run stops" if len(busy) == 1 else "runs stop"
            print(f"{len(busy)} {what}; Ctrl-C again does not wait", file=sys.stderr, flush=True)
        deadline = time.monotonic() + GRACE
        for worker in [*busy, *idle]:
            worker.signal(signal.SIGTERM)  # SIGINT is ignored by what a script starts with &
        try:
            for worker in busy:
                with suppress(subprocess.TimeoutExpired):
                    worker.process.wait(max(0.0, deadline - time.monotonic()))
        finally:
            for worker in [*busy, *idle]:
                worker.end()
