"""Stop runs in every way that happens, let them go on, and compare them with runs left alone.

`python benchmarks/crashes.py` prints the table of docs/crashes.md, and ends with exit code 1 if a
run does not end with the same bits. `--only ray` runs the cases whose names have this word.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import shlex
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import psutil

os.environ |= {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
os.environ.setdefault("OMP_NUM_THREADS", "1")

BRIEF = "run quickstart rounds=25 model.width=16 num_clients=4 evaluation.pairs=1"
ALGORITHMS = (
    "strategy=scaffold client=scaffold clients_per_round=2 checkpoint_every=auto",
    "strategy=fedpfn strategy.base=fedadam checkpoint_every=1",
    "strategy=fedavgm client=moon clients_per_round=3 checkpoint_every=4",
    "strategy=fedavg model=mlp evaluation.client_fraction=0.5 checkpoint_every=auto",
)
RAY = "simulation.backend=ray rounds=30 simulation.stack=2"
LIMIT = 120.0  # seconds for one process
TIMES = 6  # that a command may be repeated until the run has finished
Act = Callable[["Process"], None]


class Process:
    """A `fedalign run` in a process of its own, forked off this one, which has loaded all modules.

    Args:
        words: of the command.
        before: called in the new process first.
        limit: seconds that the process may take.
    """

    def __init__(
        self, words: list[str], before: Callable[[], None] | None = None, limit: float = LIMIT
    ):
        self.words, self.until = words, time.monotonic() + limit
        self.folder = Path(words[words.index("--out") + 1])
        self._log = tempfile.NamedTemporaryFile("w+")  # noqa: SIM115 - the process writes to it
        self.pid = os.fork()
        if not self.pid:
            self._run(before)

    def _run(self, before: Callable[[], None] | None) -> None:
        os.setsid()
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.dup2(self._log.fileno(), 1)
        os.dup2(self._log.fileno(), 2)
        sys.argv = ["fedalign", *self.words]
        code = 1
        try:
            if before:
                before()
            from fedalign.cli import main

            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def wait(self) -> int:
        """Return the exit code, negative for a signal; SIGKILL after a while."""
        while time.monotonic() < self.until:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        return -999

    def rounds(self) -> int:
        """Return how many rounds are in the folder."""
        tables = list(self.folder.glob("*/metrics.csv"))
        return tables[0].read_text().count("\n") - 1 if tables else 0

    def wait_for(self, rounds: int) -> None:
        """Wait until so many rounds are there, or the process has ended."""
        while time.monotonic() < self.until and self.rounds() < rounds:
            if psutil.Process(self.pid).status() == psutil.STATUS_ZOMBIE:
                return
            time.sleep(0.01)

    def kin(self, *names: str) -> list[psutil.Process]:
        """Return the processes that this one has started and whose names begin so."""
        own = psutil.Process(self.pid).children(recursive=True)
        return [process for process in own if process.name().startswith(names)]

    @property
    def last_line(self) -> str:
        """The last line that was printed."""
        lines = [line for line in Path(self._log.name).read_text().splitlines() if line.strip()]
        return lines[-1] if lines else ""


@dataclass
class Case:
    """A way to stop a run.

    Attributes:
        act: does it to a process.
        share: of `--count`.
        words: more words of the command.
        before: called in the process first.
    """

    act: Act
    share: float = 0.05
    words: str = ""
    before: Callable[[], None] | None = None


@dataclass
class Outcome:
    """What became of the runs of a case; `missed` stops found no process to kill."""

    runs: int = 0
    equal: int = 0
    stops: int = 0
    missed: int = 0
    codes: Counter[int] = field(default_factory=Counter)
    line: str = ""


def at_random(number: int, most: float = 4.0) -> Act:
    """Return an act that sends a signal at a random moment of the first `most` seconds."""

    def act(process: Process) -> None:
        time.sleep(random.uniform(0.2, most))
        os.kill(process.pid, number)

    return act


def while_writing(process: Process) -> None:
    """Kill a process while it writes a checkpoint."""
    process.wait_for(random.randint(1, 15))
    until = time.monotonic() + 5
    while time.monotonic() < until and not list(process.folder.glob("*/checkpoint*.tmp")):
        pass
    os.kill(process.pid, signal.SIGKILL)


def kin(*names: str, all_of_them: bool = False) -> Act:
    """Return an act that kills processes that belong to the run's Ray.

    It raises `LookupError` if there is none.
    """

    def act(process: Process) -> None:
        process.wait_for(random.randint(1, 6))
        found = process.kin(*names)[: None if all_of_them else 1]
        if not found:
            raise LookupError(f"no process called {names} to kill")
        for other in found:
            other.kill()

    return act


def second_writer(process: Process) -> None:
    """Start the same command a second time; it must be refused."""
    process.wait_for(2)
    other = Process(process.words)
    code = other.wait()
    if code != 1 or "is being written by process" not in other.last_line:
        print(f"second writer: exit code {code}: {other.last_line}", file=sys.stderr)
        os.kill(process.pid, signal.SIGKILL)
        raise SystemExit(1)


def nothing(_: Process) -> None:
    """Do nothing; what happens happens in the process itself."""


def full() -> None:
    """Let no file grow beyond 50 kB."""
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (50_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    )


def back() -> None:
    """Set the clock back by a day, and forth again, ten times a second."""
    now = time.time
    time.time = lambda: now() - 86400 * (int(now() * 10) % 2)


CASES = {
    "inline: SIGKILL at a random moment": Case(at_random(signal.SIGKILL), 0.4),
    "inline: SIGKILL while a checkpoint is written": Case(while_writing, 0.2),
    "inline: SIGTERM": Case(at_random(signal.SIGTERM), 0.1),
    "inline: Ctrl-C": Case(at_random(signal.SIGINT), 0.1),
    "inline: disk full": Case(nothing, 0.05, before=full),
    "inline: two writers": Case(second_writer, 0.05),
    "inline: clock set back": Case(nothing, 0.05, before=back),
    "ray: SIGKILL at a random moment": Case(at_random(signal.SIGKILL, 12.0), 0.03, RAY),
    "ray: SIGTERM": Case(at_random(signal.SIGTERM, 12.0), 0.1, RAY),
    "ray: one worker killed": Case(kin("ray::Worker"), 0.2, RAY),
    "ray: all workers killed": Case(kin("ray::Worker", all_of_them=True), 0.1, RAY),
    "ray: raylet killed": Case(kin("raylet"), 0.03, RAY),
    "ray: head killed": Case(kin("gcs_server"), 0.03, RAY),
}


def results(out: Path) -> tuple[str, bytes]:
    """Return all that a run ends with, but for the seconds that it took."""
    (folder,) = out.glob("*")
    tables = [pd.read_csv(path, dtype=str) for path in sorted(folder.glob("*.csv"))]
    texts = [
        table.drop(columns=["seconds", "cpu_seconds", "peak_memory"], errors="ignore").to_csv()
        for table in tables
    ]
    return "".join(texts), (folder / "model.safetensors").read_bytes()


def undisturbed(words: str, place: Path, known: dict[str, tuple[str, bytes]]) -> tuple[str, bytes]:
    """Return the results of a run that is left alone."""
    if words not in known:
        out = place / f"whole{len(known)}"
        code = Process([*shlex.split(words), "--out", str(out)]).wait()
        if code:
            raise SystemExit(f"{words}: exit code {code} without a crash")
        known[words] = results(out)
    return known[words]


def try_once(case: Case, algorithm: str, out: Path, outcome: Outcome) -> tuple[str, bytes]:
    """Stop a run one or two times, let it go on, and return its results."""
    words = [*shlex.split(f"{BRIEF} {algorithm} {case.words}"), "--out", str(out)]
    stops = random.choice((1, 2))
    for attempt in range(TIMES):
        stopping = attempt < stops
        process = Process(words, case.before if stopping else None)
        if stopping:
            outcome.stops += 1
            try:
                case.act(process)
            except LookupError as error:
                print(error, file=sys.stderr)
                outcome.missed += 1
            except (ProcessLookupError, psutil.NoSuchProcess):  # it had finished
                pass
        code = process.wait()
        if stopping:
            outcome.codes[code] += 1
            outcome.line = process.last_line or outcome.line
        if code == 0:
            return results(out)
    return "", b""


def main() -> None:
    """Run the cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="runs in all")
    parser.add_argument("--only", default="", help="a word in the names of cases")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    random.seed(given.seed)
    import fedalign.server_app
    import fedalign.simulation.inline  # noqa: F401 - what each process needs is loaded once

    print("| what happens | runs | stops | exit codes | the same bits | the last line |")
    print("|---|---|---|---|---|---|", flush=True)
    known: dict[str, tuple[str, bytes]] = {}
    bad = 0
    for name, case in CASES.items():
        if given.only not in name:
            continue
        outcome = Outcome(runs=max(1, round(case.share * given.count)))
        for number in range(outcome.runs):
            algorithm = ALGORITHMS[number % len(ALGORITHMS)]
            with tempfile.TemporaryDirectory() as folder:
                place = Path(folder)
                whole = undisturbed(f"{BRIEF} {algorithm} {case.words}", place, known)
                outcome.equal += try_once(case, algorithm, place / "out", outcome) == whole
        codes = ", ".join(f"{code} ({n} times)" for code, n in sorted(outcome.codes.items()))
        bits = f"{outcome.equal} of {outcome.runs}"
        print(
            f"| {name} | {outcome.runs} | {outcome.stops} | {codes} | {bits} |",
            outcome.line[-90:],
            "|",
            flush=True,
        )
        bad += outcome.runs - outcome.equal + outcome.missed
    raise SystemExit(min(bad, 1))


if __name__ == "__main__":
    main()
