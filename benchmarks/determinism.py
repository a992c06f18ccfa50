"""Run each algorithm on each engine, straight and stopped in the middle, and compare final models.

    python benchmarks/determinism.py
    python benchmarks/determinism.py --only inline ray-2 fedavg scaffold

Prints one table: an engine a row, an algorithm a column, and in each cell the beginning of the
SHA-256 of `model.safetensors`. Clients train one by one and nothing is summed in workers
(`simulation.stack=1 simulation.partial_aggregation=false`), as on engines that know no stacks. A
stopped run gets SIGTERM after its second round of four, and the same command then goes on. `anew`
marks one that had no checkpoint to go on from. Exit code 1 if the models of an algorithm differ.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import tempfile
from collections.abc import Iterable
from pathlib import Path

from crashes import Process
from processes import environment
from torch import nn

STOPPED_AFTER, ROUNDS = 2, 4
LIMIT = 900.0  # seconds for one process
BRIEF = (
    f"rounds={ROUNDS} num_clients=3 client.epochs=8 checkpoint_every=1 simulation.stack=1"
    " simulation.partial_aggregation=false evaluation.pairs=1 evaluation.alphas=3"
)
ALGORITHMS = {
    "fedavg": "strategy=fedavg",
    "fedpfn": "strategy=fedpfn",
    "fedpnu": "strategy=fedpnu",
    "scaffold": "strategy=scaffold client=scaffold",
    "fedadam": "strategy=fedadam",
    "dropout": "strategy=fedavg model=determinism:dropout",
}
CPUS = os.cpu_count() or 1
ENGINES = {
    "inline": "simulation.backend=inline",
    **{
        f"ray-{workers}": f"simulation.backend=ray simulation.client_cpus={CPUS / workers:g}"
        for workers in (1, 2, 4)
    },
    "flower": "simulation.backend=flower",
    "superlink": "",
}


def dropout(shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Return a network that draws random numbers while it trains."""
    inputs = shape[0] * shape[1] * shape[2]
    layers = nn.Linear(inputs, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, classes)
    return nn.Sequential(nn.Flatten(), *layers)


def settings_of(engine: str, algorithm: str) -> list[str]:
    """Return the settings of a run, as they are typed."""
    return f"{BRIEF} {ALGORITHMS[algorithm]} {ENGINES[engine]}".split()


def start(engine: str, algorithm: str, out: Path) -> Process:
    """Start a run, or go on with it."""
    how = ["deploy", "local"] if engine == "superlink" else ["run"]
    words = [*how, "quickstart", *settings_of(engine, algorithm), "--out", str(out)]
    return Process(words, limit=LIMIT)


def stop(process: Process) -> str:
    """Stop a run after some of its rounds; return why that failed, or an empty text."""
    process.wait_for(STOPPED_AFTER)
    os.kill(process.pid, signal.SIGTERM)
    code = process.wait()
    return "" if code == 128 + signal.SIGTERM else f"exit code {code} after SIGTERM"


def cell(engine: str, algorithm: str, stopped: bool, out: Path) -> tuple[str, str]:
    """Return the hash of the final model of a run, and what else is to be said of it."""
    note = stop(start(engine, algorithm, out)) if stopped else ""
    process = start(engine, algorithm, out)
    if process.wait():
        return "failed", ", ".join(filter(None, [note, process.last_line]))
    (folder,) = (path for path in out.iterdir() if path.is_dir())
    resumed = json.loads((folder / "manifest.json").read_text())["resumed_after"]
    note = ", ".join(filter(None, [note, "anew" if stopped and not resumed else ""]))
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()[:8], note


def chosen(words: Iterable[str], known: Iterable[str]) -> list[str]:
    """Return those of the known names that are among the words; all if none is."""
    return [name for name in known if name in words] or list(known)


def main() -> None:
    """Run the cells and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    names = [*ENGINES, *ALGORITHMS]
    parser.add_argument("--only", nargs="+", default=names, choices=names, metavar="NAME")
    parser.add_argument("--keep", type=Path, help="folder for the runs")
    parser.add_argument("--straight", action="store_true", help="stop none")
    given = parser.parse_args()
    os.environ.update(environment())
    import fedalign.server_app
    import fedalign.simulation.inline  # noqa: F401 - what each process needs is loaded once

    algorithms = chosen(given.only, ALGORITHMS)
    place = (given.keep or Path(tempfile.mkdtemp())).resolve()
    found: dict[str, set[str]] = {name: set() for name in algorithms}
    print(f"| engine | {' | '.join(algorithms)} |\n|{'---|' * (len(algorithms) + 1)}", flush=True)
    for engine in chosen(given.only, ENGINES):
        for stopped in (False,) if given.straight else (False, True):
            title = f"{engine}, stopped" if stopped else engine
            print(f"| {title} |", end="", flush=True)
            for algorithm in algorithms:
                out = place / f"{title}-{algorithm}".replace(", ", "-")
                model, note = cell(engine, algorithm, stopped, out)
                found[algorithm].add(model)
                print(f" {model}{f' ({note})' if note else ''} |", end="", flush=True)
            print(flush=True)
    same = [name for name, models in found.items() if len(models) == 1 and "failed" not in models]
    print(f"\nthe same model in all rows: {len(same)} of {len(algorithms)} algorithms")
    raise SystemExit(len(same) < len(algorithms))


if __name__ == "__main__":
    main()
