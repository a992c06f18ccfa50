"""`fedalign evaluate` finds what the run itself measured, without training."""

import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from fedalign.cli import app

BRIEF = [
    "rounds=1",
    "num_clients=3",
    "model.width=8",
    "evaluation.alphas=0",
    "data.max_examples=90",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Return the folder of a run in which every client tested the last model."""
    out = tmp_path_factory.mktemp("runs")
    words = ["evaluation.client_fraction=1", "partition=dirichlet", "partition.min_size=5"]
    done = CliRunner().invoke(app, ["run", "quickstart", *BRIEF, *words, "--out", str(out)])
    assert done.exit_code == 0, done.output
    return next(out.iterdir())


def evaluate(*words):
    return CliRunner().invoke(app, ["evaluate", *map(str, words)])


def test_it_finds_what_the_run_measured(run, tmp_path):
    told = evaluate(run, "--out", tmp_path / "clients.csv").output
    metrics = pd.read_csv(run / "metrics.csv").iloc[-1]
    loss, accuracy = metrics["test_loss"], metrics["test_accuracy"]
    assert f"test set   loss {loss:.4f}, accuracy {accuracy:.4f} (360 examples)" in told
    mean, std, worst = (metrics[f"client_accuracy_{k}"] for k in ("mean", "std", "worst10"))
    assert f"mean {mean:.4f}, standard deviation {std:.4f}, worst 10 % {worst:.4f}" in told
    assert f"{metrics['client_accuracy']:.4f} of all 90 examples together" in told
    columns = ["partition", "examples", "loss", "accuracy"]
    found, own = pd.read_csv(tmp_path / "clients.csv"), pd.read_csv(run / "clients.csv")
    assert found.equals(own[columns])


def test_settings_and_configuration_of_a_file(run, tmp_path):
    assert "on the examples that they hold out" in evaluate(run, "evaluation.holdout=0.4").output
    nested = run / "models" / "round-1"
    nested.mkdir(parents=True)
    shutil.copy(run / "model.safetensors", nested / "client-0.safetensors")
    assert evaluate(nested / "client-0.safetensors").exit_code == 0
    alone = shutil.copy(run / "model.safetensors", tmp_path / "alone.safetensors")
    told = evaluate(alone, "--config", "quickstart", "model.width=8").output
    assert "clients    10 of 10, on the examples that they train on" in told


def test_examples_that_the_run_trained_on_are_no_test(run, tmp_path):
    """The run of 3 clients with 90 examples held out none; another one two fifths."""
    told = evaluate(run, "evaluation.holdout=0.4").output
    assert "but the run trained on 36 of these 36 examples; it had evaluation.holdout=0\n" in told
    told = evaluate(run, "evaluation.holdout=0.4", "data.max_examples=60").output
    assert "(of other data than the run's" in told
    other = Path(shutil.copytree(run, tmp_path / "other"))
    config = other / "config.yaml"
    config.write_text(re.sub("holdout: 0.*", "holdout: 0.4", config.read_text()))
    assert "the run trained" not in evaluate(other).output
    shown = evaluate(
        other, "seed=1"
    ).output  # others hold out others, of which 60 % were trained on
    (count,) = re.findall(r"the run trained on (\d+) of these 36 examples", shown)
    assert 10 < int(count) < 32


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["model.width=7"], "'fc1.weight' is (8, 64), not (7, 64)"),
        (["--config", "quickstar"], "did you mean 'quickstart'?"),
        (["rouns=3"], "rouns: no such setting; did you mean 'rounds'?"),
        (["evaluation.holdout=0.001"], "evaluation.holdout: 0.001 of the examples of a client"),
        (["--out", "/no/where.csv"], "--out: '/no' is not a folder"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(run, words, told):
    result = evaluate(run, *words)
    assert result.exit_code == 2, result.output
    assert told in result.stderr
    assert result.stderr.count("\n") == 1


def test_where_there_is_no_model_or_no_configuration(run, tmp_path):
    assert "no such file; give a run folder" in evaluate(tmp_path / "nowhere").stderr
    assert f"{tmp_path} holds no model.safetensors" in evaluate(tmp_path).stderr
    alone = shutil.copy(run / "model.safetensors", tmp_path / "alone.safetensors")
    assert "--config: must be given, the configuration that says" in evaluate(alone).stderr
