"""With the real packages, offline: after a resume there is one run that has each step once."""

import csv
import os
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from fedalign.runs.paths import folder_of
from fedalign.server.round import Round
from fedalign.settings.config import read
from fedalign.trackers.tracking import Tracking
from tests.trackers.reading import mlflow_runs, mlflow_steps, tensorboard_steps, wandb_steps

COMMAND = [sys.executable, "-c", "from fedalign.cli import main; main()", "run", "quickstart"]
SETTINGS = {"rounds": 30, "num_clients": 4, "model.width": 8, "evaluation.pairs": 1}
ONCE = [(n, n / 8) for n in range(1, 7)]


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")

    def config(tracker, **options):
        found = read("quickstart", {"out": "runs", "trackers": {"name": tracker, **options}})
        folder_of(found).mkdir(parents=True)
        return found

    return config


def stopped_and_resumed(config):
    """Tell a tracker of rounds 1 to 5, and, as if only 3 were in the checkpoint, of 4 to 6."""
    with suppress(KeyboardInterrupt), Tracking(config, dict) as tracking:
        tell(tracking, range(1, 6))
        raise KeyboardInterrupt
    rows = "".join(f"{n},{n / 8}\n" for n in range(1, 4))
    (folder_of(config) / "metrics.csv").write_text(f"round,test_accuracy\n{rows}")
    with Tracking(config, dict).resume(3) as tracking:
        tell(tracking, range(4, 7))


def tell(tracking, numbers):
    for n in numbers:
        tracking.on_round(Round(n, None, None, {}, {"test_accuracy": n / 8}))


def test_tensorboard(config):
    pytest.importorskip("tensorboard")
    found = config("tensorboard")
    stopped_and_resumed(found)
    assert tensorboard_steps(folder_of(found) / "tensorboard", "test_accuracy") == ONCE


@pytest.mark.slow
def test_mlflow(config, tmp_path):
    pytest.importorskip("mlflow")
    uri = f"sqlite:///{tmp_path / 'store.db'}"
    stopped_and_resumed(config("mlflow", uri=uri, experiment="mine"))
    client, (run,) = mlflow_runs(uri, "mine")
    assert mlflow_steps(client, run, "test_accuracy") == ONCE
    assert run.info.status == "FINISHED"
    assert run.data.params["strategy.fixed_ratio"] == "0.4"


@pytest.mark.slow
def test_wandb(config, tmp_path):
    pytest.importorskip("wandb")
    stopped_and_resumed(config("wandb"))
    ids, steps = wandb_steps(tmp_path / "wandb", "test_accuracy")
    assert steps == ONCE
    assert len(ids) == 1


@pytest.mark.slow
def test_a_run_that_is_killed_and_goes_on(tmp_path):
    """All three at a time, in processes of their own; the first one is killed in mid-run."""
    for package in ("tensorboard", "mlflow", "wandb"):
        pytest.importorskip(package)
    words = [f"{key}={value}" for key, value in SETTINGS.items()]
    words += ["checkpoint_every=4", "simulation.backend=inline", f"out={tmp_path / 'runs'}"]
    command = [*COMMAND, *words, *(f"--tracker={n}" for n in ("tensorboard", "mlflow", "wandb"))]
    # W&B's service of this process, if there is one, would outlive the one that is killed.
    own = {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"}
    place = {"cwd": tmp_path, "env": own | {"WANDB_MODE": "offline"}}
    child = subprocess.Popen(command, **place)
    while child.poll() is None and rounds(tmp_path) < 11:
        time.sleep(0.02)
    child.kill()
    child.wait()
    assert rounds(tmp_path) < SETTINGS["rounds"]
    assert subprocess.run(command, **place).returncode == 0
    (table,) = tmp_path.glob("runs/*/metrics.csv")
    with table.open() as file:
        truth = [(int(r["round"]), float(r["test_accuracy"])) for r in csv.DictReader(file)]
    assert len(truth) == SETTINGS["rounds"]
    shown = tensorboard_steps(table.parent / "tensorboard", "test_accuracy")
    assert shown == [(n, pytest.approx(value)) for n, value in truth]
    client, (run,) = mlflow_runs(f"sqlite:///{tmp_path / 'mlflow.db'}", "fedalign")
    assert mlflow_steps(client, run, "test_accuracy") == truth
    ids, steps = wandb_steps(tmp_path / "wandb", "test_accuracy")
    assert steps == truth
    assert len(ids) == 1


def rounds(folder):
    tables = list(folder.glob("runs/*/metrics.csv"))
    return tables[0].read_text().count("\n") - 1 if tables else 0
