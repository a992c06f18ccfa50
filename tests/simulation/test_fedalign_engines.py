"""The same run on every engine, each in a process of its own so that no Ray is left here."""

import os
import subprocess
import sys

import pandas as pd
import pytest
from safetensors.numpy import load_file

from fedalign.settings.registry import HOME

COMMAND = [sys.executable, "-c", "from fedalign.cli import main; main()", "run", "quickstart"]
BRIEF = ["rounds=3", "num_clients=5", "clients_per_round=4", "model.width=16", "evaluation.pairs=1"]
BRIEF += [
    f"evaluation.{word}" for word in ("client_fraction=0.5", "holdout=0.3", "finetune_epochs=1")
]
# A schedule of masks, and states that clients keep.
ALGORITHM = ["strategy=fedpnu", "strategy.base=scaffold", "client=scaffold"]
EXACT = ["simulation.stack=1", "simulation.partial_aggregation=false"]


def run(out, *words):
    subprocess.run(
        [*COMMAND, *BRIEF, *EXACT, *words, "--out", str(out)],
        check=True,
        timeout=900,
        cwd=out.parent,
        env={**os.environ, "PYTHONPATH": str(HOME)},
    )
    (folder,) = out.iterdir()
    return folder


@pytest.fixture(scope="module")
def inline(tmp_path_factory):
    return run(tmp_path_factory.mktemp("here") / "inline", *ALGORITHM)


@pytest.mark.parametrize("backend", ["ray", "flower"])
def test_every_engine_gives_the_same_bits(inline, tmp_path, backend):
    here, there = inline, run(tmp_path / "out", *ALGORITHM, f"simulation.backend={backend}")
    assert here.name == there.name
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (here, there))
    assert all((ours[name] == theirs[name]).all() for name in ours)
    metrics = [pd.read_csv(f / "metrics.csv").drop(columns="seconds") for f in (here, there)]
    pd.testing.assert_frame_equal(*metrics, check_exact=True)
    for name in ("landscape.csv", "clients.csv"):
        assert (here / name).read_bytes() == (there / name).read_bytes()
