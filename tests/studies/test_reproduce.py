"""A tiny study on the embedded data set, from its file to its table and figure."""

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from fedalign.cli import app
from fedalign.errors import FedalignError
from fedalign.settings.registry import HOME
from fedalign.simulation import FlowerApp, simulate
from fedalign.studies import reproduce

STUDY = {
    "title": "Two arms",
    "base": "quickstart",
    "settings": {
        "rounds": 2,
        "num_clients": 3,
        "model": {"width": 8},
        "evaluation": {"alphas": 3, "every": 2, "fusion_gap": True},
    },
    "vary": {"seed": [0, 1]},
    "arms": {"FedAvg": {"strategy": "fedavg"}, "FedPNU": {"strategy": "fedpnu"}},
    "baseline": "FedAvg",
}


@pytest.fixture
def go(tmp_path):
    def go(*words, **changes):
        (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(STUDY | changes, sort_keys=False))
        words = ("reproduce", str(tmp_path / "tiny.yaml"), *words, "--out", str(tmp_path / "runs"))
        return CliRunner().invoke(app, list(words))

    return go


@pytest.fixture
def here(monkeypatch):
    """Runs happen in this process, which has imported torch already."""

    def run_all(configs, _):
        own = FlowerApp(HOME, "fedalign.server_app:app", "fedalign.client_app:app", {})
        for config in configs:
            try:
                simulate(own, config.num_clients, config.run_config())
                yield config, None
            except FedalignError as error:
                yield config, str(error)

    monkeypatch.setattr(reproduce, "run_all", run_all)


def results(output):
    return [line for line in output.splitlines() if line.startswith("[")]


def check(folder: Path):
    table = (folder / "table.md").read_text().splitlines()
    assert table[0] == "# Two arms"
    (head,) = (line for line in table if line.startswith("| run"))
    assert "minus FedAvg's" in head
    assert "fusion gap" in head
    summary = pd.read_csv(folder / "summary.csv", index_col="arm")
    assert summary["seeds"].tolist() == [2, 2]
    curves = pd.read_csv(folder / "curves.csv")
    assert len(curves.groupby(["arm", "seed"])) == 4
    assert summary.loc["FedPNU", "pairs"] == 2
    expected = summary["accuracy_mean"]["FedPNU"] - summary["accuracy_mean"]["FedAvg"]
    assert summary.loc["FedPNU", "difference"] == pytest.approx(expected)
    assert all((folder / f"figure.{kind}").stat().st_size > 5_000 for kind in ("png", "pdf"))


@pytest.mark.usefixtures("here")
def test_a_study_from_file_to_figure_and_again(go, tmp_path):
    result = go()
    assert result.exit_code == 0, result.output
    lines = results(result.output)
    assert lines[0].startswith("[1/4] FedAvg, seed 0: accuracy 0.")
    assert lines[3].startswith("[4/4] FedPNU, seed 1: accuracy 0.")
    check(tmp_path / "runs" / "tiny")
    again = go()
    assert again.exit_code == 0
    assert "4 runs, 4 of them finished;" in again.output
    assert not results(again.output)
    more = go("seed=0,1,2")
    assert [line[:5] for line in results(more.output)] == ["[5/6]", "[6/6]"]


@pytest.mark.usefixtures("here")
def test_a_failing_arm_is_named_and_tried_again(go, tmp_path):
    arms = STUDY["arms"] | {"Crowd": {"num_clients": 5000}}
    result = go(arms=arms)
    assert result.exit_code == 1
    assert "[5/6] Crowd, seed 0: failed: num_clients: 5000 clients" in result.output
    assert "error: 2 runs failed; run the same command to try them again" in result.stderr
    table = (tmp_path / "runs" / "tiny" / "table.md").read_text()
    assert re.search(r"\| FedPNU +\| 2 +\|", table)
    assert "2 of 6 runs are missing." in table
    assert [line[:5] for line in results(go(arms=arms).output)] == ["[5/6]", "[6/6]"]


@pytest.mark.parametrize("arm", [{}, {"Else": {"data": "digits"}}])
def test_data_that_cannot_be_had_fail_once_before_the_first_run(go, tmp_path, monkeypatch, arm):
    monkeypatch.setattr(reproduce, "run_all", lambda *_: pytest.fail("a run was started"))
    missing = {"data": {"name": "mnist", "dir": str(tmp_path), "download": False}}
    result = go(settings=STUDY["settings"] | missing, arms=STUDY["arms"] | arm)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "does not hold mnist" in result.stderr
    assert not results(result.output)


@pytest.mark.usefixtures("here")
def test_a_run_that_is_level_over_an_axis_happens_once(go, tmp_path):
    vary = {"strategy.fixed_ratio": [0.2, 0.4]}
    result = go("rounds=1", vary=vary, figure={"kind": "sweep", "x": "strategy.fixed_ratio"})
    assert result.exit_code == 0, result.output
    assert len(results(result.output)) == 3
    summary = pd.read_csv(tmp_path / "runs" / "tiny" / "summary.csv")
    assert summary["arm"].tolist() == ["FedAvg", "FedPNU"] * 2
    assert summary["strategy.fixed_ratio"].tolist() == [0.2, 0.2, 0.4, 0.4]
    folder = tmp_path / "runs" / "tiny"
    assert (folder / "lines.png").stat().st_size > 10_000


@pytest.mark.usefixtures("here")
def test_a_sweep_with_one_value_has_the_other_picture(go, tmp_path):
    vary = {"strategy.fixed_ratio": [0.2, 0.4]}
    words = ["rounds=1", "strategy.fixed_ratio=0.4"]
    result = go(*words, vary=vary, figure={"kind": "sweep", "x": "strategy.fixed_ratio"})
    assert result.exit_code == 0, result.output
    folder = tmp_path / "runs" / "tiny"
    assert (folder / "figure.png").stat().st_size > 10_000
    assert not (folder / "lines.png").exists()


@pytest.mark.usefixtures("here")
def test_if_everything_fails_there_is_no_table(go, tmp_path):
    assert go("num_clients=5000").exit_code == 1
    assert not (tmp_path / "runs" / "tiny").exists()


def test_a_bad_study_starts_nothing(go, tmp_path):
    result = go(arms={"A": {"strategy": "fedavq"}}, baseline="A")
    assert result.exit_code == 2
    assert "tiny.yaml: arms.A: strategy.name: 'fedavq' is not a strategy" in result.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_in_processes_of_their_own(go, tmp_path):
    result = go("--jobs", "2")
    assert result.exit_code == 0, result.output
    assert len(results(result.output)) == 4
    check(tmp_path / "runs" / "tiny")
    (manifest, *_) = (tmp_path / "runs").glob("*/manifest.json")
    assert json.loads(manifest.read_text())["command"][1] == "run"
