"""Run any Flower apps on the engines in turn, and compare what they write and say.

    python benchmarks/apps.py ~/flower/examples/quickstart-numpy tests/apps/*
    python benchmarks/apps.py DIR… --engines inline ray stock --num-supernodes 10 --repeat 3

Each run has a process and an empty folder of its own. `stock` is Flower's engine as `flwr run`
starts it, without anything of fedalign; all others are `flower-simulation --backend`. Prints one
table: an app a row, an engine a column, with the seconds of the whole run (the median, if it is
repeated), compared with the first engine:

- `same`: all files are equal, and all lines but for times, ids and paths;
- `close`: the numbers in the lines agree to four digits; since replies come in any order on
  Flower's engine, its sums differ in the last bits;
- `random`: the first engine's own second run has other numbers, since the app seeds nothing; all
  words are the same.

Anything else is shown on standard error. Exit code 1 if an app fails or differs on any engine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from statistics import median

from processes import HERE, environment

from fedalign.simulation import find_app, parse_run_config

ENGINES = ("inline", "ray", "auto", "stock")
VOLATILE = re.compile(
    r"^(\x1b\[\d+m)*\((Worker|ClientAppActor) [^)]*\)|\x1b\[\d+m"  # Ray's prefix; colours
    r"|(?<=\}, )\d[\d.e-]*(?=\)$)"  # seconds in Flower's `fit progress`
    r"|\d{4}-\d\d-\d\d[ T_]\d\d.\d\d.\d\d\S*|\d\d:\d\d:\d\d\S*"  # times
    r"|\b\d+(\.\d+)?(e-\d+)? ?(s|seconds)\b"
    r"|\b\d{13,}\b|0x[0-9a-f]+|pid=\d+|(/[\w.-]+){2,}"  # ids, addresses, paths
)
NUMBER = re.compile(r"-?\d+\.?\d*(?:e[+-]?\d+)?")


@dataclass
class Run:
    """What came of a run.

    Attributes:
        seconds: of the whole process.
        code: its exit code; None if it was stopped.
        files: the hash of each file that it wrote, by its path.
        lines: what it printed and Flower logged, without what differs from run to run.
        end: its last lines.
    """

    seconds: float
    code: int | None
    files: dict[str, str]
    lines: list[str]
    end: str


def command(engine: str, app: Path, count: int, config: list[str]) -> list[str]:
    """Return the command that runs an app."""
    if engine == "stock":
        given = json.dumps(parse_run_config(config))
        return [sys.executable, str(HERE / "stock_app.py"), str(app), str(count), given]
    start = "from fedalign.cli import flower_simulation as go; go()"
    words = [sys.executable, "-c", start, "--app", str(app), "--backend", engine]
    words += [word for text in config for word in ("--run-config", text)]
    return [*words, "--num-supernodes", str(count)]


def run(words: list[str], limit: float) -> Run:
    """Run a command in an empty folder."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        began = time.perf_counter()
        done = subprocess.Popen(
            words, cwd=folder, env=environment() | {"RAY_DEDUP_LOGS": "0"}, text=True,
            start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            said, logged = done.communicate(timeout=limit)
        except subprocess.TimeoutExpired:
            os.killpg(done.pid, 9)
            said, logged = done.communicate()
            done.returncode = None
        seconds = time.perf_counter() - began
        paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
        files = {
            VOLATILE.sub("", path.name): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in paths
        }
    lines = [line for line in logged.splitlines() if "INFO" in line]
    lines = [" ".join(VOLATILE.sub("", line).split()) for line in said.splitlines() + lines]
    end = (logged.strip() or said).splitlines()[-3:]
    return Run(seconds, done.returncode, files, list(filter(None, lines)), "\n".join(end))


def difference(one: Run, other: Run, digits: bool = True) -> str:
    """Return `same`, `close`, or the first line in which two runs differ.

    Without `digits`, numbers are not compared.
    """
    if other.code != one.code:
        return f"exit code {other.code}, not {one.code}: {other.end}"
    mine, theirs = sorted(set(one.lines)), sorted(set(other.lines))
    if mine == theirs and one.files == other.files:
        return "same"
    words = [sorted({NUMBER.sub("#", line) for line in lines}) for lines in (mine, theirs)]
    for left, right in zip_longest(*words, fillvalue="nothing"):
        if left != right:
            return f"{right!r}, not {left!r}"
    for left, right in zip(mine, theirs, strict=False) if digits else ():
        if not _agree(left, right):
            return f"{right!r}, not {left!r}"
    return "close" if one.files.keys() == other.files.keys() else f"files {sorted(other.files)}"


def _agree(left: str, right: str) -> bool:
    """Return whether the numbers in two lines agree to four digits."""
    pairs = zip_longest(NUMBER.findall(left), NUMBER.findall(right), fillvalue="nan")
    return all(math.isclose(float(a), float(b), rel_tol=1e-4, abs_tol=1e-6) for a, b in pairs)


def compared(app: str, runs: dict[str, list[Run]]) -> tuple[list[str], list[str]]:
    """Return a cell of the table for each engine, and what differs from the first."""
    reference, again = next(iter(runs.values()))[:2]
    steady = difference(reference, again) in ("same", "close")
    cells, notes = [], []
    for engine, those in runs.items():
        word = difference(reference, those[0], steady) if those[0] is not reference else ""
        if those[0].code != 0:
            notes.append(f"{app}, {engine}: {those[0].end}")
            word = "stopped" if those[0].code is None else f"exit code {those[0].code}"
        elif word not in ("", "same", "close"):
            notes.append(f"{app}, {engine}: {word}")
            word = "differs"
        word = word if steady or word != "close" else "random"
        cells.append(f"{word} {median(each.seconds for each in those):.1f} s".strip())
    return cells, notes


def row(app: Path, given: argparse.Namespace) -> tuple[str, list[str]]:
    """Return an app's row of the table, and what differs."""
    count = given.num_supernodes or find_app(str(app)).num_supernodes or 10
    runs: dict[str, list[Run]] = {engine: [] for engine in given.engines}
    for turn in range(max(2, given.repeat)):
        for engine in given.engines if turn < given.repeat else given.engines[:1]:
            runs[engine].append(run(command(engine, app, count, given.run_config), given.limit))
    cells, notes = compared(app.name, runs)
    return f"| {app.name} | {count} | {' | '.join(cells)} |", notes


def main() -> None:
    """Run the apps and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("apps", nargs="+", type=Path, metavar="DIR")
    parser.add_argument("--engines", nargs="+", default=ENGINES, metavar="ENGINE")
    parser.add_argument("--num-supernodes", type=int, help="else what the app says, or 10")
    parser.add_argument("--run-config", action="append", default=[], metavar="K=V")
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--limit", type=float, default=600.0, help="seconds for a run")
    given = parser.parse_args()
    print(f"| app | nodes | {' | '.join(given.engines)} |\n|{'---|' * (2 + len(given.engines))}")
    differ = False
    for app in given.apps:
        line, notes = row(app.resolve(), given)
        print(line, flush=True)
        print(*notes, sep="\n", end="\n" * bool(notes), file=sys.stderr)
        differ = differ or bool(notes)
    raise SystemExit(differ)


if __name__ == "__main__":
    main()
