"""The same run on every engine gives the same bits."""

import shutil

import pandas as pd
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

from fedalign.cli import app
from fedalign.federation.client_state import STATES
from fedalign.runs.folder import RunFolder
from fedalign.runs.paths import CHECKPOINT
from fedalign.runs.tables import COSTS
from fedalign.runs.trees import read

WORDS = ["run", "quickstart", "rounds=3", "num_clients=5", "clients_per_round=4", "model.width=16"]
WORDS += ["evaluation.pairs=1", "evaluation.client_fraction=0.5", "evaluation.holdout=0.3"]
WORDS += ["evaluation.finetune_epochs=1"]
# A schedule of masks, and states that clients keep.
WORDS += ["strategy=fedpnu", "strategy.base=scaffold", "client=scaffold"]
WORDS += ["simulation.stack=1", "simulation.partial_aggregation=false"]


@pytest.fixture(scope="module")
def inline(tmp_path_factory):
    return run_here(tmp_path_factory.mktemp("inline"))


def run_here(out, *more):
    done = CliRunner().invoke(app, [*WORDS, *more, "--out", str(out)])
    assert done.exit_code == 0, done.output
    (folder,) = out.iterdir()
    return folder


def check(here, there):
    assert here.name == there.name
    ours, theirs = (load_file(folder / "model.safetensors") for folder in (here, there))
    assert all((ours[name] == theirs[name]).all() for name in ours)
    metrics = [pd.read_csv(f / "metrics.csv").drop(columns=[*COSTS]) for f in (here, there)]
    pd.testing.assert_frame_equal(*metrics, check_exact=True)
    for name in ("landscape.csv", "clients.csv"):
        assert (here / name).read_bytes() == (there / name).read_bytes()


@pytest.mark.usefixtures("ray")
def test_our_workers_give_the_same_bits(inline, tmp_path):
    check(inline, run_here(tmp_path / "ray", "simulation.backend=ray"))


@pytest.mark.usefixtures("last_ray")
@pytest.mark.slow
def test_flowers_engine_gives_the_same_bits_and_checkpoints_have_the_clients_states(
    inline, tmp_path, monkeypatch
):
    save = RunFolder.save

    def copy_and_save(folder, model):
        shutil.copytree(folder.path, tmp_path / "running")
        save(folder, model)

    monkeypatch.setattr(RunFolder, "save", copy_and_save)
    folder = run_here(tmp_path / "flower", "simulation.backend=flower", "checkpoint_every=1")
    check(inline, folder)
    digests = read(tmp_path / "running" / CHECKPOINT)["clients"]
    assert len(digests) >= 4
    for partition, digest in digests.items():
        assert list((tmp_path / "running" / STATES).glob(f"*/{partition}/{digest}"))
    assert not (folder / STATES).exists()
