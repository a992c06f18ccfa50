"""Measure the time and memory each partitioner needs for 1,000,000 examples and 100,000 clients.

    python benchmarks/partitioners.py
    python benchmarks/partitioners.py --classes 100 --repeats 5

Each repeat is a fresh process; memory is what partitioning adds to the peak of the process after
imports and labels. Numbers are medians. There are 200,000 groups, but for `pachinko` a fifth of the
number of classes; `dirichlet` moves examples to clients that have too few, and `indices` reads the
partition by `iid` from JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from fedalign.partitioning import checked, split
from fedalign.settings.builtin import BUILTIN
from fedalign.settings.registry import parse

OPTIONS: dict[str, dict[str, Any]] = {"dirichlet": {"too_small": "move"}}
OTHERS = {"replicated", "flwr"}  # the first does nothing, the second belongs to another package


def main() -> None:
    """Print a Markdown table."""
    given = _arguments()
    if given.one:
        print(json.dumps(measure(given.one, given)))
        return
    cores = len(os.sched_getaffinity(0))
    print(
        f"{given.examples:,} examples of {given.classes} classes, {given.clients:,} clients; "
        f"Python {platform.python_version()}, NumPy {np.__version__}, {cores} cores, "
        f"median of {given.repeats}\n\n| partitioner | seconds | MiB |\n|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as folder:
        file = written(Path(folder) / "iid.json", given)
        for name in (name for name in BUILTIN["partitioners"] if name not in OTHERS):
            found = [in_a_child(name, file) for _ in range(given.repeats)]
            seconds, memory = (median(column) for column in zip(*found, strict=True))
            print(f"| `{name}` | {seconds:.2f} | {memory:.0f} |", flush=True)


def in_a_child(name: str, file: str) -> tuple[float, float]:
    """Return the result of `measure` in a fresh process."""
    command = [sys.executable, *sys.argv, "--one", name, "--file", file]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    seconds, memory = json.loads(done.stdout)
    return seconds, memory


def measure(name: str, given: argparse.Namespace) -> tuple[float, float]:
    """Return the seconds for a partition and the MiB that it adds to the process's peak."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, given.classes, given.examples)
    groups = labels // 5 if name == "pachinko" else rng.integers(0, 200_000, given.examples)
    options = {"file": given.file} if name == "indices" else OPTIONS.get(name, {})
    partitioner = parse("partitioners", {"name": name} | options, "partition").build()
    before, began = peak(), time.perf_counter()
    dealt = split(partitioner, labels, given.clients, np.random.default_rng(1), groups)
    seconds = time.perf_counter() - began
    checked(dealt, given.clients, given.examples, name)
    return seconds, peak() - before


def written(file: Path, given: argparse.Namespace) -> str:
    """Write an even partition to a file; return the file's name."""
    iid = parse("partitioners", {"name": "iid"}, "partition").build()
    shares = iid.split(np.zeros(given.examples), given.clients, np.random.default_rng(0))
    file.write_text(json.dumps([share.tolist() for share in shares]))
    return str(file)


def peak() -> float:
    """Return the peak memory of this process in MiB, on Linux.

    `ru_maxrss` does not serve, since it starts from the parent's.
    """
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=1_000_000)
    parser.add_argument("--clients", type=int, default=100_000)
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    for hidden in ("--one", "--file"):
        parser.add_argument(hidden, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
