"""Every configuration that ships is one that runs."""

import pandas as pd
import pytest

from fedalign.runs.paths import folder_of
from fedalign.settings.builtin import BUILTIN
from fedalign.settings.config import read
from fedalign.settings.registry import HOME
from fedalign.simulation import FlowerApp, simulate
from fedalign.studies.study import find_study, plan, read_study

ALGORITHMS = sorted(path.stem for path in (HOME / "configs" / "algorithms").glob("*.yaml"))
STUDIES = sorted(path.stem for path in (HOME / "configs" / "studies").glob("*.yaml"))
SMALL = {"rounds": 1, "model.width": 8, "data.max_examples": 200, "partition.min_size": 5}


@pytest.mark.parametrize("name", ALGORITHMS)
def test_an_algorithms_configuration_runs(name, tmp_path):
    config = read(f"algorithms/{name}", SMALL | {"out": str(tmp_path), "evaluation.alphas": 3})
    app = FlowerApp(HOME, "fedalign.server_app:app", "fedalign.client_app:app", {})
    simulate(app, config.num_clients, config.run_config(), backend="inline")
    metrics = pd.read_csv(folder_of(config) / "metrics.csv")
    assert metrics["clients"].tolist() == [10]
    assert metrics["test_loss"].between(0, 100).all()


def test_the_one_for_text_runs(tmp_path):
    small = {"rounds": 1, "data.max_examples": 150, "data.window": 10, "model.width": 8}
    config = read("shakespeare", small | {"out": str(tmp_path)})
    app = FlowerApp(HOME, "fedalign.server_app:app", "fedalign.client_app:app", {})
    simulate(app, config.num_clients, config.run_config(), backend="inline")
    metrics = pd.read_csv(folder_of(config) / "metrics.csv")
    assert metrics["clients"].tolist() == [12]
    assert metrics["test_loss"].between(0, 5).all()


def test_every_algorithm_has_one():
    parts = [read(f"algorithms/{name}", {}) for name in ALGORITHMS]
    assert {config.strategy.name for config in parts} == set(BUILTIN["strategies"])
    assert {config.client.name for config in parts} == set(BUILTIN["clients"])


@pytest.mark.parametrize("name", STUDIES)
def test_a_studys_runs_are_valid(name):
    file = find_study(name)
    assert len(plan(read_study(file), file, ["seed=0"])) >= 8
