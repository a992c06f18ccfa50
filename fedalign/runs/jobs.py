"""Run several configurations at a time, each in its own process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from fedalign.runs.paths import folder_of, is_finished
from fedalign.server.participation import LimpingRunError
from fedalign.settings.config import Config
from fedalign.settings.registry import HOME
from fedalign.settings.yaml12 import dump

RUN = (sys.executable, "-c", "from fedalign.cli import main; main()", "run")
DONE = (0, LimpingRunError.exit_code)  # exit codes of runs that have finished
GRACE = 10.0  # seconds that an interrupted run has to stop
Child = subprocess.Popen[bytes]


def run_all(
    configs: Sequence[Config], jobs: int
) -> Generator[tuple[Config, str | None], None, None]:
    """Yield each configuration when its run ends, with the reason if the run failed, else None.

    Each run is a `fedalign run` in its own process group. Leaving the generator early, for example
    by Ctrl-C or SIGTERM, stops all runs.

    Args:
        configs: what to run, in this order.
        jobs: number of runs at a time.
    """
    waiting = list(configs)[::-1]
    running: dict[Child, tuple[Config, Path]] = {}
    with TemporaryDirectory(prefix="fedalign-") as folder, _stopping(running):
        while waiting or running:
            while waiting and len(running) < jobs:
                config, log = waiting.pop(), Path(folder) / f"{len(waiting)}.log"
                running[_start(config, log)] = config, log
            for child in [child for child in running if child.poll() is not None]:
                config, log = running.pop(child)
                yield config, None if child.returncode in DONE else _reason(child, log)
            time.sleep(0.05)


def _start(config: Config, log: Path) -> Child:
    file = log.with_suffix(".yaml")
    file.write_text(dump(config.model_dump()), "utf-8")
    paths = [str(HOME), *filter(None, [os.environ.get("PYTHONPATH")])]
    threads = {"OMP_NUM_THREADS": str(config.evaluation.threads)}
    again = ["--again"] if is_finished(folder_of(config)) else []  # whoever asks for it means it
    with log.open("wb") as errors:
        return subprocess.Popen(
            [*RUN, *again, str(file)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            env=os.environ | threads | {"PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,
        )


def _reason(child: Child, log: Path) -> str:
    if child.returncode < 0:
        return f"killed by {signal.Signals(-child.returncode).name}"
    lines = log.read_text("utf-8", "replace").split("\n")
    messages = [line.removeprefix("error: ") for line in lines if line.strip()]
    return messages[-1] if messages else f"exit code {child.returncode}"


@contextmanager
def _stopping(running: Collection[Child]) -> Iterator[None]:
    """Stop all running processes on leaving; their checkpoints stay, so that they can continue."""
    try:
        yield
    finally:
        for child in running:
            _signal(child, signal.SIGTERM)  # SIGINT is ignored by what a script starts with &
        deadline = time.monotonic() + GRACE
        for child in running:
            with suppress(subprocess.TimeoutExpired):
                child.wait(max(0.0, deadline - time.monotonic()))
            _signal(child, signal.SIGKILL)  # and the processes that it started
            child.wait()


def _signal(child: Child, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(child.pid, number)
