"""fedalign as Python calls it."""

import asyncio
import json
import subprocess
import sys
import threading
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file

import fedalign
from fedalign.api import configuration
from fedalign.report.gallery import figures
from fedalign.runs import launch
from fedalign.server.participation import LimpingRunError
from fedalign.settings.config import read
from fedalign.studies import make
from tests.conftest import BRIEF

SETTINGS = {"rounds": 2, "seed": np.int64(3), "strategy": {"name": "fedpfn", "fixed_ratio": 0.25}}


@pytest.fixture(scope="module")
def again(tmp_path_factory):
    """Return a function that makes the call whose run is `run`."""
    out = tmp_path_factory.mktemp("runs")
    return lambda **more: fedalign.run(BRIEF, SETTINGS, out=out, **more)


@pytest.fixture(scope="module")
def run(again):
    """Run once: in a thread that is not the main one, inside of a loop of asyncio."""
    found = []

    async def call():
        found.append(again())

    thread = threading.Thread(target=lambda: asyncio.run(call()))
    thread.start()
    thread.join()
    return found[0]


def test_tables_are_data_frames_of_whole_rounds(run):
    assert list(run.metrics["round"]) == [1, 2]
    assert set(run.barriers["path"]) == set(run.landscape["path"])
    for table in (run.clients, run.planes):
        assert isinstance(table, pd.DataFrame)
        assert table.empty
        assert "round" in table
    assert run.settings["strategy.fixed_ratio"] == 0.25
    assert run.settings["seed"] == 3
    assert run.manifest["versions"]["torch"] == torch.__version__


def test_the_model_has_the_accuracy_that_the_run_has_measured(run):
    model, (inputs, labels) = run.model(), run.examples()
    assert not model.training
    with torch.no_grad():
        accuracy = (model(inputs).argmax(1) == labels).float().mean()
    assert accuracy.item() == pytest.approx(run.metrics["test_accuracy"].iloc[-1])


def test_models_of_clients_are_found_by_their_round(run):
    with pytest.raises(fedalign.InputError, match="no clients' models of round 2; keep_models"):
        run.client_models(2)
    folder = run.path / "models" / "round-2"
    folder.mkdir(parents=True)
    weights = load_file(run.path / "model.safetensors")
    for client in (10, 2):
        moved = {name: tensor + client for name, tensor in weights.items()}
        save_file(moved, folder / f"client-{client}.safetensors")
    found = run.client_models(2)
    assert list(found) == [2, 10]
    for client, model in found.items():
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, weights[name] + client)
    with pytest.raises(fedalign.InputError, match=r"of round 3; it kept those of rounds \[2\]"):
        run.client_models(3)
    save_file({"other": torch.zeros(3)}, run.path / "best.safetensors")
    with pytest.raises(fedalign.InputError, match=r"best.safetensors does not hold this model"):
        run.model("best")


def test_a_finished_run_is_returned_and_not_repeated(run, again, monkeypatch):
    def never(*_, **__):
        raise AssertionError("it trained")

    monkeypatch.setattr(launch, "simulate", never)
    assert again().metrics.equals(run.metrics)
    with pytest.warns(UserWarning, match=r"has not kept .* of round 1; again=True repeats the run"):
        again(keep_models=[1])
    with pytest.raises(AssertionError, match="it trained"):
        again(again=True)


def test_changed_code_is_refused_in_words_of_python(run, again):
    file = run.path / "manifest.json"
    text = file.read_text()
    file.write_text(text.replace(f'"fedalign": "{fedalign.__version__}"', '"fedalign": "0.0.9"'))
    with pytest.raises(fedalign.InputError, match=r"give again=True to repeat it, or reuse=True"):
        again()
    assert again(reuse=True).manifest["versions"]["fedalign"] == "0.0.9"
    file.write_text(text)


def test_too_few_clients_are_a_warning(run, again, monkeypatch):
    def limp(*_):
        raise LimpingRunError("3 of 10 clients took part")

    monkeypatch.setattr("fedalign.api.launch", limp)
    with pytest.warns(UserWarning, match="3 of 10 clients took part") as found:
        assert again().path == run.path
    assert found[0].filename == __file__


def test_a_notebook_shows_a_table(run):
    shown = run._repr_html_()
    assert f"{run.metrics['test_accuracy'].iloc[-1]:.4f} in round 2" in shown
    assert "4 of 4 in each round" in shown
    assert repr(run) == f"Run({str(run.path)!r}, finished)"


def test_figures_are_found_by_their_name(run):
    assert run.figure(metric="train_loss").get_supylabel() == "train loss"
    with pytest.raises(fedalign.InputError, match="did you mean 'planes'"):
        run.figure("plane")
    with pytest.raises(fedalign.InputError, match=r"evaluation.plane=21"):
        run.figure("planes")
    stopped = replace(run, status="stopped")
    assert set(figures(stopped)) == {"curves", "bytes", "barriers", "lines", "partition"}


def test_a_comparison_is_a_frame_a_text_and_a_table_of_a_notebook(run):
    found = fedalign.compare([run], by="strategy")
    assert found.frame()["mean"].item() == pytest.approx(run.metrics["test_accuracy"].mean())
    assert found.frame(each_run=True)["run"].item() == str(run.path)
    assert "\\begin{tabular}" in found.text("latex")
    assert "<li>" in found._repr_html_()


def test_a_sweep_makes_all_combinations_of_lists(tmp_path, monkeypatch):
    def execute(planned, how):
        assert (how.jobs, how.changed) == (2, "refuse")
        return sum(not launch.launch(how.placed(own.config)) for own in planned)

    monkeypatch.setattr(make, "execute", execute)
    monkeypatch.setattr(make, "write", lambda *_: "written")
    few = BRIEF | {"rounds": 1, "out": tmp_path}
    file = tmp_path / "mine.yaml"
    file.write_text("strategy: fedpfn\nsweep: {grid: {strategy.fixed_ratio: [0.25]}}\n")
    for config in ({"strategy": {"name": "fedpfn"}}, file):
        runs = fedalign.sweep(config, few, seed=[0, 1], client={"lr": [0.1, 1e-5]}, jobs=2)
        made = [(run.settings["seed"], run.settings["client.lr"]) for run in runs]
        assert sorted(made) == [(0, 1e-5), (0, 0.1), (1, 1e-5), (1, 0.1)]
    assert {run.settings["strategy.fixed_ratio"] for run in runs} == {0.25}
    with pytest.raises(fedalign.InputError, match=r"^settings: client\.lrr: .* 'client\.lr'"):
        fedalign.sweep(file, {"client.lrr": [1, 2]}, jobs=2)


@pytest.mark.parametrize(
    "config",
    [
        {"rounds": 4, "strategy": {"name": "fedpfn", "fixed_ratio": 0.5}, "partition.alpha": 0.7},
        "rounds: 4\nstrategy: {name: fedpfn, fixed_ratio: 0.5}\npartition: {alpha: 0.7}",
    ],
)
def test_settings_go_over_a_configuration_in_any_form(config):
    more = {"strategy": "fedavg", "partition.alpha": np.float64(0.3), "evaluation": {"pairs": 1}}
    there = {"strategy": "fedavg", "partition.alpha": 0.3, "evaluation.pairs": 1, "rounds": 4}
    assert configuration(config, more) == read(None, there)
    json.dumps(configuration(config, more).model_dump())  # with plain numbers


def test_errors_name_the_place(tmp_path):
    with pytest.raises(fedalign.InputError, match=r"^settings: partition\.alpha: -1 is"):
        fedalign.run("quickstart", {"partition.alpha": -1})
    with pytest.raises(fedalign.InputError, match=r"^settings: rouns: .* did you mean 'rounds'"):
        fedalign.run({"rouns": 3})
    with pytest.raises(fedalign.InputError, match="is not a run folder"):
        fedalign.load(tmp_path)


def test_importing_fedalign_imports_nothing_large():
    code = "import fedalign, sys; print({'torch', 'flwr', 'pandas', 'typer'} & {*sys.modules})"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "set()\n"
    assert {"run", "load", "Run"} <= {*dir(fedalign)}


def test_the_model_needs_no_data(run, monkeypatch):
    monkeypatch.setattr("fedalign.data.digits.Digits.load", lambda *_: 1 / 0)
    weights = load_file(run.path / "model.safetensors")
    assert all(torch.equal(t, weights[name]) for name, t in run.model().state_dict().items())
    with pytest.raises(fedalign.InputError, match="division by zero"):
        run.examples()
