"""Check that two checkouts compute the same models, metrics and curves, to the bit.

    git worktree add ../before 2144896
    python benchmarks/bits.py ../before .
    python benchmarks/bits.py ../before . --only resume matched

Every configuration runs once in each checkout, in a fresh process on this machine, since stored
hashes would differ between processors. Compares the final models (names, dtypes, bytes) and all CSV
files of the run folders except for the seconds. Exit code 1 if anything differs.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
from safetensors.numpy import load_file

FAST = "rounds=2 evaluation.examples=100 evaluation.pairs=1 evaluation.alphas=5"
EXACT = "simulation.stack=1 simulation.partial_aggregation=false"
STACKED = "simulation.stack=3"
RUNS = {
    "fedavg": f"{FAST} {STACKED} strategy=fedavg",
    "fedpfn exact": f"{FAST} {EXACT} strategy=fedpfn",
    "fedpnu stacked": f"{FAST} {STACKED} strategy=fedpnu clients_per_round=5",
    "fedpfn ray": f"{FAST} {STACKED} strategy=fedpfn simulation.backend=ray",
    "fedpnu ray exact": f"{FAST} {EXACT} strategy=fedpnu simulation.backend=ray",
    "fedpnu flower": f"{FAST} {EXACT} strategy=fedpnu simulation.backend=flower num_clients=4",
    "masks": f"{FAST} {STACKED} strategy=fedpfn strategy.granularity=neuron strategy.sampling=exact"
    " strategy.exclude=head strategy.fixed_value=init strategy.refresh=0",
    "soft masks": f"{FAST} {STACKED} strategy=fedpfn strategy.fixed_lr_scale=0.1",
    "gradient masks": f"{FAST} {STACKED} strategy=fedpfn strategy.freeze=grad_only",
    "masks per client": f"{FAST} {EXACT} strategy=fedpfn strategy.per_client=true wire=float16",
    "pruning": f"{FAST} {STACKED} strategy=fedpfn strategy.fixed_value=zero strategy.refresh=0",
    "k-way": f"{FAST} {STACKED} strategy=fedpnu strategy.schedule=k_way strategy.reset=false"
    " client.clip_norm=1",
    "growing adam": f"{FAST} {STACKED} strategy=fedpnu strategy.schedule=growing"
    " client.optimizer=adam client.lr=0.002",
    "scaffold": f"{FAST} {EXACT} strategy=fedpnu strategy.base=scaffold client=scaffold",
    "scaffold ray": f"{FAST} {STACKED} strategy=scaffold client=scaffold simulation.backend=ray",
    "feddyn": f"{FAST} {STACKED} strategy=feddyn client=feddyn clients_per_round=5",
    "fednova": f"{FAST} {STACKED} strategy=fednova client.epochs=2",
    "moon": f"{FAST} {STACKED} strategy=fedpfn client=moon",
    "fedadam": f"{FAST} {STACKED} strategy=fedpfn strategy.base=fedadam wire=float16",
    "krum": f"{FAST} {STACKED} strategy=krum client=fedprox client.mu=0.1",
    "privacy": f"{FAST} strategy=dp-client-fixed strategy.noise_multiplier=0.1"
    " strategy.clipping_norm=1",
    "matched": f"{FAST} {STACKED} strategy=matched init=own num_clients=4 partition=iid",
    "batch norm": f"{FAST} {STACKED} strategy=fedpfn model=vgg model.depth=11 model.norm=batch"
    " model.width=8 evaluation.repair=true num_clients=4 client.batch_size=47",
    "convolutions": f"{FAST} {STACKED} strategy=fedpnu model=resnet20 model.norm=group"
    " num_clients=4 evaluation.match=weights",
    "landscape": f"{FAST} {STACKED} strategy=fedpfn evaluation.pairs=2 evaluation.plane=5"
    " evaluation.layers=true evaluation.mixes=2 evaluation.to_global=2 evaluation.extrapolate=1.5"
    " evaluation.match=activations evaluation.fusion_gap=true evaluation.overlap=false",
    "personal": f"{FAST} {STACKED} strategy=fedbabu evaluation.client_fraction=0.5"
    " evaluation.holdout=0.2 evaluation.finetune_epochs=1",
    "feature skew": f"{FAST} {STACKED} strategy=fedavg partition=feature-skew max_update_norm=2",
    "text": f"{FAST} {EXACT} strategy=fedpfn data=shakespeare-excerpt partition=natural"
    " num_clients=4 model=char-lstm model.width=16",
    "resume": f"rounds=12 checkpoint_every=2 {EXACT} evaluation.alphas=5 strategy=fedpfn"
    " strategy.base=fedadam",
}
KILLED_AFTER = {"resume": 5}  # rounds

# Older names of settings, in a checkout whose files lie flat in `fedalign/`, and of columns.
OLD_WORDS = {
    "simulation.stack": "simulation.cohort",
    "simulation.partial_aggregation": "simulation.fuse",
    "strategy.sampling": "strategy.counts",
    "strategy.fixed_value": "strategy.value",
    "strategy.fixed_lr_scale": "strategy.slow",
}
OLD_COLUMNS = {"effort": "normalized_steps"}
COSTS = ["seconds", "cpu_seconds", "peak_memory"]
MAIN = "from fedalign.cli import main; main()"


def run(checkout: Path, name: str, out: Path) -> Path:
    """Run one configuration in a checkout; return the run folder."""
    words = ["quickstart", *RUNS[name].split(), f"out={out}"]
    if (checkout / "fedalign" / "config.py").exists():
        pairs = (word.partition("=") for word in words)
        words = [OLD_WORDS.get(key, key) + equals + value for key, equals, value in pairs]
    environment = os.environ | {"PYTHONPATH": str(checkout), "FLWR_TELEMETRY_ENABLED": "0"}
    command = [sys.executable, "-c", MAIN, "run", *words]
    out.mkdir(parents=True)
    with (out.parent / f"{out.name}.log").open("w") as log:
        how = {"cwd": out, "env": environment, "stdout": log, "stderr": log}
        if name in KILLED_AFTER:
            process = subprocess.Popen(command, **how)  # type: ignore[call-overload]
            while process.poll() is None and rounds_in(out) < KILLED_AFTER[name]:
                time.sleep(0.05)
            if process.poll() is not None:
                raise SystemExit(f"{name}: ended before it could be killed; see {log.name}")
            process.kill()
            process.wait()
        if subprocess.run(command, check=False, **how).returncode:  # type: ignore[call-overload]
            raise SystemExit(f"{name}: failed in {checkout}; see {log.name}")
    (folder,) = (path for path in out.iterdir() if path.is_dir())
    if name in KILLED_AFTER and '"resumed_after": []' in (folder / "manifest.json").read_text():
        raise SystemExit(f"{name}: was not resumed in {checkout}")
    return folder


def rounds_in(out: Path) -> int:
    """Return the number of rounds in the metrics of the run in this folder."""
    tables = list(out.glob("*/metrics.csv"))
    return len(tables[0].read_text().splitlines()) - 1 if tables else 0


def differences(before: Path, after: Path) -> list[str]:
    """Return the names of tensors and tables that differ between two run folders."""
    found = []
    old, new = load_file(before / "model.safetensors"), load_file(after / "model.safetensors")
    if old.keys() != new.keys():
        found.append(f"tensors {sorted(old.keys() ^ new.keys())}")
    for name in old.keys() & new.keys():
        if old[name].dtype != new[name].dtype or old[name].tobytes() != new[name].tobytes():
            found.append(f"tensor {name}")
    for name in sorted(path.name for path in before.glob("*.csv")):  # what is new is no difference
        if not (after / name).exists():
            found.append(f"{name} is missing")
            continue
        old_table = table(before / name)
        new_table = table(after / name).reindex(columns=old_table.columns)
        if not old_table.equals(new_table):
            columns = [str(c) for c in old_table if any(old_table[c] != new_table[c])]
            found.append(f"{name}: {', '.join(columns) or 'other columns'}")
    return found


def table(file: Path) -> pd.DataFrame:
    """Return a table with its cells as text, without what the run cost."""
    read = pd.read_csv(file, dtype=str, keep_default_na=False)
    return read.drop(columns=COSTS, errors="ignore").rename(columns=OLD_COLUMNS)


def main() -> None:
    """Run all configurations in both checkouts and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--only", nargs="+", default=list(RUNS), choices=RUNS, metavar="NAME")
    parser.add_argument("--keep", type=Path, help="folder for the runs; finished ones are kept")
    given = parser.parse_args()
    out, failed = given.keep or Path(tempfile.mkdtemp()), 0
    for name in given.only:
        folders = []
        for side, checkout in (("before", given.before), ("after", given.after)):
            place = (out / side / name.replace(" ", "-")).resolve()
            done = list(place.glob("*/model.safetensors"))
            folders.append(done[0].parent if done else run(checkout.resolve(), name, place))
        found = differences(*folders)
        failed += bool(found)
        print(f"{name:20} {'; '.join(found) or 'equal'}", flush=True)
    print(f"{len(given.only) - failed} of {len(given.only)} equal")
    raise SystemExit(failed > 0)


if __name__ == "__main__":
    main()
