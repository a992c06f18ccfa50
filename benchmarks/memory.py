"""Check that memory stays constant over a long run, on each engine.

    python benchmarks/memory.py --rounds 1000

Runs the quickstart with 100 clients, 20 per round. Prints the proportional set size of all
processes of the run, in MB, after each tenth of the rounds.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
from measuring import family, memory_of
from processes import environment, seconds_in

SETTINGS = [
    "num_clients=100",
    "clients_per_round=20",
    "partition.min_size=2",
    "evaluation.alphas=3",
]


def watch(engine: str, rounds: int) -> list[float]:
    """Return the MB that a run uses after each tenth of its rounds."""
    with tempfile.TemporaryDirectory() as out:
        words = [*SETTINGS, f"rounds={rounds}", f"simulation.backend={engine}", "--out", out]
        process = psutil.Popen(
            [
                sys.executable,
                "-c",
                "from fedalign.cli import main; main()",
                "run",
                "quickstart",
                *words,
            ],
            stdout=subprocess.DEVNULL,
            env=environment(),
        )
        held: list[float] = []
        while process.poll() is None:
            time.sleep(0.2)
            if len(seconds_in(Path(out))) >= (len(held) + 1) * rounds // 10:
                held.append(sum(map(memory_of, family(process))))
        if process.returncode:
            raise SystemExit("the run failed")
        return held


def report() -> None:
    """Print a row for each engine."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--engines", nargs="+", default=["inline", "ray"])
    parser.add_argument("--rounds", type=int, default=1000)
    given = parser.parse_args()
    print("| engine | " + " | ".join(f"{10 * tenth} %" for tenth in range(1, 11)) + " |")
    print("|---" * 11 + "|")
    for engine in given.engines:
        cells = [f"{held:.0f}" for held in watch(engine, given.rounds)]
        print(f"| {engine} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    report()
