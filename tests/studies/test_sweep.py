"""A tiny sweep on the embedded data set, from its file to its table and figure."""

import json
import os
import re
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from fedalign.cli import app
from fedalign.errors import FedalignError
from fedalign.report.reading import held, read_runs
from fedalign.runs import worker
from fedalign.runs.launch import start
from fedalign.runs.paths import adopting, folder_of
from fedalign.runs.processes import Processes
from fedalign.settings.config import read
from fedalign.settings.layers import flatten
from fedalign.settings.registry import HOME
from fedalign.studies import execute

SETTINGS = {
    "rounds": 2,
    "num_clients": 3,
    "model": {"width": 8},
    "evaluation": {"alphas": 3, "every": 2, "fusion_gap": True},
}
SWEEP = {
    "title": "Two arms",
    "base": "quickstart",
    "seeds": 2,
    "arms": {"FedAvg": {"strategy": "fedavg"}, "FedPNU": {"strategy": "fedpnu"}},
    "baseline": "FedAvg",
}


@pytest.fixture
def go(tmp_path):
    def go(*words, settings=SETTINGS, **changes):
        tree = settings | {"sweep": SWEEP | changes}
        (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tree, sort_keys=False))
        words = ("sweep", str(tmp_path / "tiny.yaml"), *words, "--out", str(tmp_path / "runs"))
        return CliRunner().invoke(app, list(words))

    return go


@pytest.fixture
def here(monkeypatch):
    """Runs happen in this process, which has imported torch already."""

    def run_all(configs, jobs, stalled, watch):  # noqa: ARG001
        for config in configs:
            watch([config])
            try:
                start(config)
                yield config, None
            except FedalignError as error:
                yield config, str(error)

    monkeypatch.setattr(execute, "run_all", run_all)


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
def test_a_sweep_from_file_to_figure_and_again(go, tmp_path):
    result = go()
    assert result.exit_code == 0, result.output
    lines = results(result.output)
    assert lines[0].startswith("[1/4] FedAvg, seed 0: accuracy 0.")
    assert lines[3].startswith("[4/4] FedPNU, seed 1: accuracy 0.")
    check(tmp_path / "runs" / "tiny")
    again = go("keep_models=all")
    assert again.exit_code == 0
    assert "4 runs, 4 of them finished\n" in again.output
    lacking = "has not kept the clients' models of round 1, 2 (and 3 more such runs); a run whose"
    assert lacking in again.output
    assert f"next: fedalign compare {tmp_path / 'runs' / 'tiny'}" in again.output
    assert len(read_runs(held(tmp_path / "runs" / "tiny"))) == 4
    assert not results(again.output)
    more = go("seed=0,1,2")
    assert [line[:5] for line in results(more.output)] == ["[5/6]", "[6/6]"]


@pytest.mark.usefixtures("here")
def test_a_prepared_run_is_made_first_and_its_model_is_where_all_others_start(go, tmp_path):
    """And the folder has the table and the figures of what only such sweeps measure."""
    first = {"base": "quickstart", "rounds": 1, "model.width": 8, "data.classes": "0-8"}
    evaluation = SETTINGS["evaluation"] | {
        **{"fusions": ["best", "mean"], "server_share": 0.1},
        "tasks": {"on": {"own": "digits"}, "ways": ["probe"], "examples": 50},
    }
    settings = SETTINGS | {"evaluation": evaluation}
    arms = {"Started": {}, "From scratch": {"model.weights": None}}
    changes = {"prepare": {"model.weights": first}, "arms": arms, "baseline": None, "seeds": 1}
    listed = go("--dry-run", settings=settings, **changes)
    assert listed.output.startswith("made first: 1 run: 1 new\n"), listed.output
    result = go(settings=settings, **changes)
    assert result.exit_code == 0, result.output
    assert [line[:5] for line in results(result.output)] == ["[1/1]", "[1/2]", "[2/2]"]
    folder = tmp_path / "runs" / "tiny"
    started, scratch = (run.settings for run in read_runs(held(folder)))
    weights = Path(started["model.weights"])
    assert weights.is_dir()
    assert weights.name.startswith("quickstart-")
    assert scratch["model.weights"] is None
    assert "| Started" in (table := (folder / "table.md").read_text())
    assert "mean ingredient" in table
    assert "probing" in table
    assert {file.stem for file in folder.glob("*.pdf")} == {"figure", "fusions", "gain", "tasks"}
    assert "1 run, 1 of them finished" in go(settings=settings, **changes).output


@pytest.mark.usefixtures("here")
def test_a_failing_arm_is_named_and_tried_again(go, tmp_path):
    arms = SWEEP["arms"] | {"Crowd": {"num_clients": 5000}}
    result = go(arms=arms)
    assert result.exit_code == 1
    assert "[5/6] Crowd, seed 0: failed: num_clients: 5000 clients" in result.output
    assert "error: 2 of 6 runs failed; the same command tries them again" in result.stderr
    table = (tmp_path / "runs" / "tiny" / "table.md").read_text()
    assert re.search(r"\| FedPNU +\| 2 +\|", table)
    assert "2 of 6 runs are missing." in table
    assert [line[:5] for line in results(go(arms=arms).output)] == ["[5/6]", "[6/6]"]


@pytest.mark.parametrize("arm", [{}, {"Else": {"data": "digits"}}])
def test_data_that_cannot_be_had_fail_once_before_the_first_run(go, tmp_path, monkeypatch, arm):
    monkeypatch.setattr(execute, "run_all", lambda *_: pytest.fail("a run was started"))
    missing = {"data": {"name": "mnist", "dir": str(tmp_path), "download": False}}
    result = go(settings=SETTINGS | missing, arms=SWEEP["arms"] | arm)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "does not hold mnist" in result.stderr
    assert not results(result.output)


@pytest.mark.usefixtures("here")
def test_a_run_that_is_level_over_an_axis_happens_once(go, tmp_path):
    grid = {"strategy.fixed_ratio": [0.2, 0.4]}
    result = go(
        "rounds=1", grid=grid, seeds=[0], figure={"kind": "sweep", "x": "strategy.fixed_ratio"}
    )
    assert result.exit_code == 0, result.output
    assert len(results(result.output)) == 3
    summary = pd.read_csv(tmp_path / "runs" / "tiny" / "summary.csv")
    assert summary["arm"].tolist() == ["FedAvg", "FedPNU"] * 2
    assert summary["strategy.fixed_ratio"].tolist() == [0.2, 0.2, 0.4, 0.4]
    folder = tmp_path / "runs" / "tiny"
    assert (folder / "lines.png").stat().st_size > 10_000


@pytest.mark.usefixtures("here")
def test_a_sweep_with_one_value_has_the_other_picture(go, tmp_path):
    grid = {"strategy.fixed_ratio": [0.2, 0.4]}
    words = ["rounds=1", "strategy.fixed_ratio=0.4"]
    result = go(*words, grid=grid, seeds=[0], figure={"kind": "sweep", "x": "strategy.fixed_ratio"})
    assert result.exit_code == 0, result.output
    folder = tmp_path / "runs" / "tiny"
    assert (folder / "figure.png").stat().st_size > 10_000
    assert not (folder / "lines.png").exists()


@pytest.mark.usefixtures("here")
def test_if_everything_fails_there_is_no_table(go, tmp_path):
    assert go("num_clients=5000").exit_code == 1
    assert not (tmp_path / "runs" / "tiny").exists()


def test_a_bad_sweep_starts_nothing(go, tmp_path):
    result = go(arms={"A": {"strategy": "fedavq"}}, baseline="A")
    assert result.exit_code == 2
    assert "tiny.yaml: sweep.arms.A: strategy.name: 'fedavq' is not a strategy" in result.stderr
    assert not (tmp_path / "runs").exists()


def leave(config, status, name="quickstart"):
    folder = folder_of(config.model_copy(update={"name": name}))
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"status": status}))
    (folder / "metrics.csv").write_text("round,test_accuracy\n1,0.5\n2,0.75\n3,0.")
    return folder


def test_a_finished_run_of_another_name_is_taken(tmp_path):
    config = read("quickstart", {"out": str(tmp_path)})
    assert adopting(config) is config
    leave(config, "stopped", "other")
    assert adopting(config) is config
    mine = leave(config, "finished", "mine")
    assert folder_of(adopting(config)) == mine
    assert folder_of(adopting(read("quickstart", {"out": str(tmp_path), "seed": 1}))) != mine
    leave(config, "finished")
    assert adopting(config) is config


def test_a_dry_run_makes_nothing_and_says_where_each_run_stands(go, tmp_path):
    first = go("--dry-run")
    assert first.exit_code == 0, first.output
    assert first.output.startswith("4 runs: 4 new\n")
    assert not (tmp_path / "runs").exists()
    folders = [Path(line.split("  ")[0]) for line in first.output.splitlines()[1:]]
    statuses = ["finished", "failed: no: luck", "running"]
    for folder, status in zip(folders, statuses, strict=False):
        folder.mkdir(parents=True)
        (folder / "manifest.json").write_text(json.dumps({"status": status}))
        (folder / "metrics.csv").write_text("round,test_accuracy\n1,0.5\n2,0.75\n3,0.")
    counts, *lines = go("--dry-run", "rounds=2").output.splitlines()
    assert counts == "4 runs: 1 finished, 1 failed, 1 unfinished, 1 new"
    assert [line.split("  ")[1] for line in lines] == [
        "FedAvg, seed 0: finished",
        "FedAvg, seed 1: failed, round 2 of 2",
        "FedPNU, seed 0: unfinished, round 2 of 2",
        "FedPNU, seed 1: new",
    ]
    one = CliRunner().invoke(app, ["run", "quickstart", "seed=0,1,00", "--dry-run"])
    assert one.output.startswith("2 runs: ")


@pytest.mark.usefixtures("here")
def test_whoever_interrupts_is_told_how_to_go_on(go, tmp_path, monkeypatch):
    made = execute.run_all

    def interrupted(*arguments):
        yield next(made(*arguments))
        raise KeyboardInterrupt

    monkeypatch.setattr(execute, "run_all", interrupted)
    monkeypatch.setattr("sys.argv", ["/bin/fedalign", "sweep", "my file.yaml", "--jobs", "2"])
    result = go()
    assert result.exit_code == 130
    told = "1 of 4 runs are finished, 0 stopped after a whole round; to go on: "
    assert told + "fedalign sweep 'my file.yaml' --jobs 2" in result.stderr
    assert not (tmp_path / "runs" / "tiny").exists()


def test_a_node_with_other_data_is_a_failed_run(go, monkeypatch):
    """Whatever made it: on a cluster a run is compared with what there is here."""
    monkeypatch.setattr(execute.How, "crew", lambda *_: nullcontext(Processes(1)))
    made = lambda configs, *_: ((config, None) for config in configs)  # noqa: E731
    monkeypatch.setattr(execute, "run_all", made)
    monkeypatch.setattr(execute, "changes_since", lambda own: ["it is odd"] if own.seed else [])
    monkeypatch.setattr(execute, "_result", lambda _: "fine")
    result = go("--address", "auto")
    assert result.exit_code == 1
    told = "failed: made with other code or data than there is here: it is odd"
    expected = ["FedAvg, seed 0: fine", f"FedAvg, seed 1: {told}"]
    assert [line[6:] for line in results(result.output)][:2] == expected


@pytest.fixture(scope="module")
def apart(tmp_path_factory):
    """The folders of four runs, each made by a `fedalign run` of its own."""
    out = tmp_path_factory.mktemp("apart")
    settings = [f"{key}={value}" for key, value in flatten(SETTINGS).items()]
    for word in ("strategy=fedavg", "strategy=fedpnu"):
        for seed in (0, 1):
            words = [*settings, word, f"seed={seed}", f"out={out}"]
            command = [sys.executable, "-c", "from fedalign.cli import main; main()"]
            subprocess.run([*command, "run", "quickstart", *words], check=True, cwd=HOME)
    return out


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_runs_that_share_processes_have_the_bits_of_runs_alone(go, tmp_path, apart, jobs):
    result = go("--jobs", jobs)
    assert result.exit_code == 0, result.output
    assert len(results(result.output)) == 4
    check(tmp_path / "runs" / "tiny")
    for folder in apart.iterdir():
        for name in ("model.safetensors", "landscape.csv", "barriers.csv"):
            ours = tmp_path / "runs" / folder.name / name
            assert ours.read_bytes() == (folder / name).read_bytes()
        own, alone = (pd.read_csv(f / "metrics.csv") for f in (ours.parent, folder))
        same = own.columns.difference(["seconds", "cpu_seconds", "peak_memory"])
        pd.testing.assert_frame_equal(own[same], alone[same], check_exact=True)


PART = """
import numpy as np
CALLS = 0
class Rolling:
    def split(self, labels, num_clients, rng):
        global CALLS
        CALLS += 1
        order = np.roll(np.arange(len(labels)), 100 * CALLS + SHIFT)
        return np.array_split(order, num_clients)
"""


def test_a_warm_process_has_nothing_of_the_run_before(tmp_path, monkeypatch):
    """A part's module is as new for each run, with the code that its file has then."""
    monkeypatch.syspath_prepend(tmp_path)
    file, out = tmp_path / "my_rolling.py", str(tmp_path / "runs")
    words = {"out": out, "partition": "my_rolling:Rolling", "evaluation.alphas": 0}
    small = {"rounds": 1, "num_clients": 3, "model.width": 8}
    models = []
    for shift in (0, 0, 50):
        file.write_text(PART.replace("SHIFT", str(shift)))
        os.utime(file, (shift, shift))  # a new time, by which Python knows that it has changed
        config = read("quickstart", small | words)
        assert worker.serve(json.dumps(config.model_dump()), True) == (None, True)
        models.append((folder_of(config) / "model.safetensors").read_bytes())
        assert "my_rolling" not in sys.modules
    assert models[0] == models[1] != models[2]
    text = json.dumps(config.model_dump() | {"num_clients": 5000})
    error, warm = worker.serve(text, True)
    assert "left 3563 of 5000 clients without an example" in error
    assert warm  # since it has not begun
    monkeypatch.setattr(worker, "start", lambda *_: 1 / 0)
    error, warm = worker.serve(text, True)
    assert error.startswith("ZeroDivisionError: division by zero (")
    assert not warm
