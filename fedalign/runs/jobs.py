"""Run several configurations at a time, with workers that each take one run after another."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import wait
from typing import Protocol

from fedalign.runs.paths import folder_of
from fedalign.settings.config import Config

GRACE = 60.0  # seconds that interrupted runs have to stop
TICK = 0.5  # seconds between looks at what goes on
METRICS = "metrics.csv"  # grows with each round


class Worker(Protocol):
    """Takes one run after another: a process here, or on a node of a cluster."""

    @property
    def begun(self) -> bool:
        """Whether it is at work; a cluster may be full."""
        ...

    def fileno(self) -> int:
        """Return the file that can be read once a run has ended, or the worker."""
        ...

    def give(self, config: Config) -> None:
        """Let it run a configuration."""
        ...

    def take(self) -> tuple[str | None, bool]:
        """Return why the run failed, if it did, and whether the worker takes another one."""
        ...

    def stop(self) -> None:
        """Ask it to stop; its run keeps the last finished round."""
        ...

    def join(self, seconds: float) -> None:
        """Wait so long for a worker that has been asked to stop."""
        ...

    def end(self) -> None:
        """End it, and all that it has started, at once."""
        ...


class Crew(Protocol):
    """Where runs are made.

    Attributes:
        jobs: number of runs at a time.
        place: what to say of where, such as ` on 2 nodes`.
    """

    jobs: int
    place: str

    def hire(self, config: Config) -> Worker:
        """Return a new worker, whose first run will be of this configuration."""
        ...


class _Going:
    """A run that goes on, and when it got on for the last time."""

    def __init__(self, config: Config):
        self.config = config
        self._stirred, self._size = time.monotonic(), -1

    def stalls(self, seconds: float, begun: bool) -> bool:
        """Return whether the run has finished no round for so long since it has begun."""
        size = -1
        with suppress(OSError):
            size = (folder_of(self.config) / METRICS).stat().st_size
        if size != self._size or not begun:
            self._size, self._stirred = size, time.monotonic()
        return time.monotonic() - self._stirred > seconds


def run_all(
    configs: Sequence[Config],
    crew: Crew,
    stalled: float | None = None,
    watch: Callable[[Collection[Config]], None] = lambda _: None,
) -> Generator[tuple[Config, str | None], None, None]:
    """Yield each configuration when its run ends, with the reason if the run failed, else None.

    Runs share processes, see `fedalign.runs.worker`.
    Leaving the generator early, for example by Ctrl-C or SIGTERM, stops all runs, which keep their
    last finished round.

    Args:
        configs: what to run, in this order.
        crew: where.
        stalled: seconds without a new round after which a run counts as failed; None: never.
        watch: called about twice a second with the configurations that run.
    """
    waiting = list(configs)[::-1]
    busy: dict[Worker, _Going] = {}
    idle: list[Worker] = []
    with _stopping(busy, idle):
        while waiting or busy:
            while waiting and len(busy) < crew.jobs:
                worker = idle.pop() if idle else crew.hire(waiting[-1])
                busy[worker] = _Going(waiting.pop())
                worker.give(busy[worker].config)
            watch([run.config for run in busy.values()])
            ended = wait([worker.fileno() for worker in busy], TICK)
            for worker, run in list(busy.items()):
                if worker.fileno() in ended:
                    error, warm = worker.take()
                elif stalled is not None and run.stalls(stalled, worker.begun):
                    error, warm = f"no round was finished in {stalled:g} seconds", False
                else:
                    continue
                del busy[worker]
                # An idle one would keep its place from a worker that waits for one.
                idle.append(worker) if warm and waiting else worker.end()
                yield run.config, error


@contextmanager
def _stopping(busy: Mapping[Worker, _Going], idle: list[Worker]) -> Iterator[None]:
    """Stop all workers on leaving; checkpoints stay, so that their runs can continue.

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
            worker.stop()
        try:
            for worker in busy:
                worker.join(max(0.0, deadline - time.monotonic()))
        finally:
            for worker in [*busy, *idle]:
                worker.end()
