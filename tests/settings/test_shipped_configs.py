"""Every configuration that ships is one that runs."""

import numpy as np
import pandas as pd
import pytest

from fedalign.runs.paths import folder_of
from fedalign.settings.builtin import BUILTIN
from fedalign.settings.config import read
from fedalign.settings.registry import HOME
from fedalign.simulation import FlowerApp, simulate
from fedalign.studies.plan import plan
from fedalign.studies.sweep import read_sweep

ALGORITHMS = sorted(path.stem for path in (HOME / "configs" / "algorithms").glob("*.yaml"))
STUDIES = sorted(path.stem for path in (HOME / "configs" / "studies").glob("*.yaml"))
SMALL = {
    "rounds": 2,
    "data.max_examples": 600,
    "partition": "iid",
    "model.depth": 1,
    "model.width": 16,
    "client.epochs": 2,
    "client.batch_size": 8,
    "client.lr": 0.2,
    "evaluation.alphas": 3,
}
# Their servers take small steps.
SLOW = {"fedadagrad", "fedadam", "fedyogi", "fedpfn-on-fedadam", "qfedavg"}


# Their models are tested by clients alone, which keep a part of them.
PRIVATE = {"fedper", "lg-fedavg", "fedbn"}
DEAR = {"fedbn"}  # since no small network has BatchNorm


@pytest.mark.parametrize(
    "name", [pytest.param(own, marks=[pytest.mark.slow] * (own in DEAR)) for own in ALGORITHMS]
)
def test_an_algorithms_configuration_learns(name, tmp_path):
    """A model that looks at nothing has a loss of log 10."""
    small = {k: v for k, v in SMALL.items() if name not in DEAR or not k.startswith("model.")}
    if name in PRIVATE:
        small |= {"evaluation.client_every": 1, "client.lr": 0.05}
    config = read(f"algorithms/{name}", small | {"out": str(tmp_path)})
    app = FlowerApp(HOME, "fedalign.server_app:app", "fedalign.client_app:app", {})
    simulate(app, config.num_clients, config.run_config(), backend="inline")
    metrics = pd.read_csv(folder_of(config) / "metrics.csv")
    assert metrics["clients"].tolist() == [10, 10]
    assert metrics["test_loss"].isna().all() == (name in PRIVATE)
    first, second = metrics["client_loss" if name in PRIVATE else "test_loss"]
    assert second < first - 0.02
    assert second < np.log(10) - 0.2 or name in SLOW


def test_the_one_for_text_learns(tmp_path):
    """A model that looks at nothing has a loss of log 81."""
    small = {"rounds": 1, "data.max_examples": 600, "data.window": 10, "model.width": 16}
    small |= {"client.batch_size": 4, "client.lr": 0.02}
    config = read("shakespeare", small | {"out": str(tmp_path)})
    app = FlowerApp(HOME, "fedalign.server_app:app", "fedalign.client_app:app", {})
    simulate(app, config.num_clients, config.run_config(), backend="inline")
    metrics = pd.read_csv(folder_of(config) / "metrics.csv")
    assert metrics["clients"].tolist() == [12]
    assert metrics["test_loss"].iloc[0] < np.log(81) - 0.5


def test_every_algorithm_has_one():
    parts = [read(f"algorithms/{name}", {}) for name in ALGORITHMS]
    assert {config.strategy.name for config in parts} == set(BUILTIN["strategies"])
    assert {config.client.name for config in parts} == set(BUILTIN["clients"])


@pytest.mark.parametrize("name", STUDIES)
def test_a_studys_runs_are_valid(name):
    assert len(plan(read_sweep(name), ["seed=0"])) >= 2
