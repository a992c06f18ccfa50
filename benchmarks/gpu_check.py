"""Check and measure on a GPU what fedalign does there: one command, four minutes.

    make gpu-check
    python benchmarks/gpu_check.py --out table.md --only rounds algorithms --seconds 120

Each part has seconds of its own, and is skipped with a line when they, or those of all, are gone.
Engines take turns (A B A B), each in a process of its own, and a round's time is the median of
the rounds after the first two, one evaluation on 10,000 examples included. Without a GPU everything
runs in small sizes on the CPU, to try the script.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from gpu_report import Row, machine, profile_table, rounds_table
from processes import HERE, HOME, LATE, Budget, JobProcesses, Outcome, environment
from workloads import COMMON, WORKLOADS

ROUNDS = {"plain": 6, "jax": 24, "inline": 20, "ray": 12, "flower": 4}
FEW = {("plain", "W3"): 2, ("plain", "W2"): 4, ("jax", "W3"): 8, ("inline", "W2"): 32}
SMALL: dict[str, dict[str, Any]] = {
    "W1": {"data.size": 320, "num_clients": 16, "clients_per_round": 4},
    "W2": {"data.size": 1000, "num_clients": 50, "clients_per_round": 10},
    "W3": {"data.size": 800, "num_clients": 40, "clients_per_round": 10},
    "CIFAR": {"data.size": 200, "num_clients": 20, "clients_per_round": 2},
    "CNN": {"data.size": 800, "num_clients": 40, "clients_per_round": 5},
}
SHARES = {"W1": 0.35, "W2": 0.18, "W3": 0.27, "CIFAR": 0.2}
"""What part of the seconds for rounds each workload gets."""
SLOW_IN_XLA = ("W1", "CIFAR")
VARIANTS = {"inline, bf16": {"precision": "bf16"}}
"""Other settings of W1."""
ORDER = ("inline", "plain", "jax")
"""Who runs first, where time is short."""
CNN = {key: value for key, value in WORKLOADS["W2"].items() if not key.startswith("model")}
CNN |= {"clients_per_round": 20, "model": "cnn"}
ALGORITHMS: dict[str, dict[str, Any]] = {
    "FedAvg": {},
    "FedPFN": {"strategy": "fedpfn"},
    "FedPNU": {"strategy": "fedpnu"},
    "SCAFFOLD": {"strategy": "scaffold", "client": "scaffold"},
    "FedProx": {"client": "fedprox"},
}


@dataclass
class Check:
    """One check: where it runs, the time left, and what was found.

    Attributes:
        small: sizes for a rehearsal.
        budget: of everything.
        processes: those that run the workloads.
        log: file for what tests print.
        jax: JAX is installed, and takes part.
        rows: of the table of rounds.
        profiles: what `profile_round.py` returned, by workload.
        texts: tables of others.
        skipped: what was not done, and why.
    """

    small: bool
    budget: Budget
    processes: JobProcesses
    log: Path
    jax: bool = False
    rows: list[Row] = field(default_factory=list)
    profiles: dict[str, Outcome] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def settings(self, workload: str, engine: str, **more: Any) -> dict[str, Any]:
        """Return the settings of a run."""
        rounds = FEW.get((engine, workload), ROUNDS.get(engine, 16))
        own = {"CNN": CNN} | WORKLOADS
        found = COMMON | own[workload] | {"rounds": rounds, "checkpoint_every": 0}
        found |= {} if engine in ("plain", "jax") else {"simulation.backend": engine}
        found |= SMALL[workload] | {"data.tests": 100, "rounds": 3} if self.small else {}
        return found | {key.replace("__", "."): value for key, value in more.items()}

    def turns(self, part: Part, rows: Iterable[tuple[Row, dict[str, Any]]]) -> None:
        """Run rows in turn, twice; `part` says how long all of them may take."""
        pairs, own = list(rows), Budget(min(part.seconds, self.budget.left))
        ranks = {name: place for place, name in enumerate(ORDER)}
        turns = sorted(pairs, key=lambda pair: ranks.get(pair[0].process, 0))
        for turn in range(2):
            for row, settings in turns:
                if own.left < 2 or row.outcome.error not in ("", LATE):
                    continue
                limit = min(own.left, max(part.seconds / 2, 15))  # others want their turn
                job = {"engine": row.process, "settings": settings}
                self.processes.run(row.process, job, row.outcome, limit)
            if own.left < 2:
                what = "nothing more" if turn else "no second turn"
                self.skipped.append(f"{part.name}: its {part.seconds:.0f} s are over: {what}")
                break
        self.rows += [row for row, _ in pairs]


@dataclass(frozen=True)
class Part:
    """A part of the check: its name, the most seconds that it may take, and what it does."""

    name: str
    seconds: float
    run: Callable[[Check, Part], None]


def tests(check: Check, part: Part) -> None:
    """Run the tests that need a GPU."""
    if find_spec("pytest") is None:
        check.skipped.append("tests: pytest is not installed")
        return
    bare = ["--noconftest"] if find_spec("hypothesis") is None else []
    if find_spec("xdist"):  # they mostly wait for one core
        bare += ["-n", str(max(1, min(8, (os.cpu_count() or 1) // 2)))]
    home = HOME / "tests"
    files = [
        str(file) for file in (home / "network/test_scorer.py", *sorted(home.glob("test_gpu*.py")))
    ]
    command = [sys.executable, "-m", "pytest", "-v", "-m", "gpu", "--tb=short", *bare, *files]
    limit = min(part.seconds, check.budget.left)
    code, output = _within(limit, command)
    with check.log.open("a", encoding="utf-8") as log:
        log.write(output)
    check.texts.append("\n".join(outcomes_of(output)))
    if code:
        check.skipped.append(f"tests: ended with {code} within {limit:.0f} s")


def outcomes_of(output: str) -> list[str]:
    """Return how many tests of pytest's `-v` came out how, and a line for each that failed."""
    words = ("PASSED", "FAILED", "ERROR", "SKIPPED")
    lines = [line for line in output.splitlines() if "::" in line and "%]" in line]
    counts = [f"{sum(w in line for line in lines)} {w.lower()}" for w in words]
    failed = [f"- {name_of(line, word)}" for line in lines for word in words[1:3] if word in line]
    return [f"Tests on a GPU: {', '.join(counts)}", *failed]


def name_of(line: str, word: str) -> str:
    """Return the test in a line with its outcome, which xdist puts before it."""
    before, _, after = line.partition(word)
    return (before if "::" in before else after).strip()


def rounds(check: Check, part: Part) -> None:
    """Run all workloads by the plain loop, by fedalign in one process, and in JAX."""
    jax: dict[str, dict[str, Any]] = {"jax": {}} if check.jax else {}
    if not jax:
        check.skipped.append("rounds in JAX: it is not installed, or not asked for")
    for workload, share in SHARES.items():
        rows = []
        names: dict[str, dict[str, Any]] = {"plain": {}, "inline": {}}
        names |= VARIANTS if workload == "W1" else {}
        if check.small and workload in SLOW_IN_XLA:
            check.skipped.append(f"{workload} in JAX: compiling it for a CPU takes minutes")
        else:
            names |= jax
        for name, more in names.items():
            process = name.split(",")[0]
            settings = check.settings(workload, process, **more)
            rows.append((Row("rounds", workload, name, process), settings))
        check.turns(Part(f"rounds of {workload}", share * part.seconds, part.run), rows)


def workers(check: Check, part: Part) -> None:
    """Run W1 and W2 on Ray workers, and W2 on Flower's own engine."""
    if find_spec("ray") is None:
        check.skipped.append("rounds on Ray and on Flower's engine: Ray is not installed")
        return
    pairs = [("W1", "ray"), ("W2", "ray"), ("W2", "flower")]
    rows = [(Row("rounds", w, engine, engine), check.settings(w, engine)) for w, engine in pairs]
    check.turns(part, rows)


def algorithms(check: Check, part: Part) -> None:
    """Run the algorithms beside each other."""
    rows = []
    for workload in ("W2", "CNN"):
        for name, more in ALGORITHMS.items():
            settings = check.settings(workload, "inline", **more)
            rows.append((Row("algorithms", workload, name, "inline"), settings))
    check.turns(part, rows)


def landscape(check: Check, part: Part) -> None:
    """Run W1 without and with the default landscape."""
    names = {"no landscape": {}, "landscape": {"evaluation__alphas": 11}}
    rows = [
        (Row("landscape", "W1", name, "inline"), check.settings("W1", "inline", **more))
        for name, more in names.items()
    ]
    check.turns(part, rows)


def profile(check: Check, part: Part) -> None:
    """Count launches and the host's time."""
    budget = Budget(min(part.seconds, check.budget.left))
    for workload in ("W1", "W2", "W3"):
        if budget.left < 2:
            check.skipped.append(f"profile of {workload}: no time left")
            continue
        settings = check.settings(workload, "inline", rounds=8 if check.small else 10)
        if check.small:
            settings["simulation.stack"] = settings["clients_per_round"]
        outcome = check.profiles.setdefault(workload, Outcome())
        job = {"engine": "profile", "settings": settings}
        check.processes.run("inline", job, outcome, budget.left)


def convolutions(check: Check, part: Part) -> None:
    """Measure ways to convolve with K sets of kernels."""
    limit, start = min(part.seconds, check.budget.left), 4 if check.small else 8
    _script(check, part.name, limit, "--seconds", str(max(0, limit - start)))


def evaluation(check: Check, part: Part) -> None:
    """Measure a model by its own layers and by the kernels of stacks."""
    _script(check, part.name, min(part.seconds, check.budget.left))


def _script(check: Check, name: str, limit: float, *words: str) -> None:
    """Run the benchmark of this name, and report what it prints."""
    small = ["--small"] if check.small else []
    code, output = _within(limit, [sys.executable, str(HERE / f"{name}.py"), *small, *words])
    check.texts.append(output.strip())
    if code:
        check.skipped.append(f"{name}: ended with {code} within {limit:.0f} s")


def _within(limit: float, command: Sequence[str]) -> tuple[int | str, str]:
    """Return the exit code of a command, or why it has none, and what it printed until then."""
    try:
        done = subprocess.run(
            command, cwd=HOME, env=environment(), stdout=subprocess.PIPE, timeout=limit, check=False
        )
        return done.returncode, done.stdout.decode()
    except subprocess.TimeoutExpired as late:
        return "no exit code", (late.stdout or b"").decode()


PARTS = (
    Part("tests", 50, tests),
    Part("rounds", 75, rounds),
    Part("algorithms", 28, algorithms),
    Part("profile", 14, profile),
    Part("landscape", 12, landscape),
    Part("evaluation", 10, evaluation),
    Part("convolutions", 14, convolutions),
    Part("workers", 32, workers),
)


def run_parts(check: Check, names: Sequence[str]) -> None:
    """Run the parts that are named; they share the seconds of all."""
    stretch = check.budget.left / sum(part.seconds for part in PARTS if part.name in names)
    for part in PARTS:
        if part.name not in names:
            check.skipped.append(f"{part.name}: not asked for")
        elif check.budget.left < 2:
            check.skipped.append(f"{part.name}: no time left")
        else:
            part.run(check, replace(part, seconds=part.seconds * stretch))
            print(f"{part.name}: {check.budget.left:.0f} s left", file=sys.stderr, flush=True)


def report(check: Check) -> str:
    """Return all that was found, as Markdown."""
    title, gpu = machine(), torch.cuda.is_available()
    if check.small:
        title = (
            f"REHEARSAL in small sizes on {'a GPU' if gpu else 'a CPU'}, no figure counts: {title}"
        )
    lines = [
        title,
        "",
        *rounds_table(check.rows, judged=not check.small),
        "",
        *profile_table(check.profiles),
    ]
    for text in check.texts:
        lines += ["", text]
    lines += ["", "Skipped:", *(f"- {reason}" for reason in check.skipped or ["nothing"])]
    return "\n".join([*lines, "", title, ""])


def main() -> None:
    """Run the check, print the tables, and write them to a file if asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, help="file for what is printed")
    parser.add_argument("--log", type=Path, default=Path(os.devnull), help="what the runs print")
    parser.add_argument("--seconds", type=float, help="of everything; 235, of a rehearsal 120")
    parser.add_argument("--small", action="store_true", help="rehearse; without a GPU always")
    parser.add_argument("--only", nargs="+", default=[part.name for part in PARTS],
                        choices=[part.name for part in PARTS], metavar="PART")  # fmt: skip
    parser.add_argument("--no-jax", action="store_true", help="JAX compiles for half a minute")
    given = parser.parse_args()
    small = given.small or not torch.cuda.is_available()
    budget = Budget(given.seconds or (120 if small else 235))
    jax = find_spec("jax") is not None and not given.no_jax
    check = Check(small, budget, JobProcesses(given.log), given.log, jax)
    try:
        others = ["jax"] if jax else []
        others += ["ray"] if not small and "workers" in given.only else []
        if "rounds" in given.only:
            check.processes.start("plain", "inline", *others)
        run_parts(check, given.only)
    finally:
        check.processes.stop()
        text = report(check)
        print(text)
        if given.out:
            given.out.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
