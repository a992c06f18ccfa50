"""The two commands as a person types them."""

import json
import os
import re
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from fedalign.cli import app
from fedalign.simulation.command import app as simulation

BRIEF = ["rounds=2", "num_clients=3", "evaluation.alphas=3", "evaluation.pairs=1", "model.width=8"]


@pytest.fixture
def fedalign():
    return lambda *words: CliRunner().invoke(app, list(words))


@pytest.fixture
def flower_simulation():
    return lambda *words: CliRunner().invoke(simulation, list(words))


def test_run_prints_a_line_a_round_and_where_the_results_are(fedalign, tmp_path):
    result = fedalign("run", "quickstart", *BRIEF, "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    (folder,) = tmp_path.iterdir()
    lines = result.output.splitlines()
    assert lines[0] == f"fedpfn on digits: {folder}"
    assert lines[-1] == f"results in {folder}"
    assert [line.split()[0] for line in lines[2:-1]] == ["1", "2"]


def test_a_finished_run_is_not_repeated_unless_asked(fedalign, tmp_path):
    words = ("run", "quickstart", *BRIEF, "--out", str(tmp_path))
    assert fedalign(*words).exit_code == 0
    assert "is finished already; use --again to repeat it" in fedalign(*words).output
    assert "results in" in fedalign(*words, "--again").output


@pytest.mark.parametrize(
    "said",
    [
        ("evaluation.examples=null", "strategy.include="),
        ("evaluation.batch_size=null", "client.lr=1e-01", "seed=010", "max_update_norm=null"),
    ],
)
def test_the_folder_that_is_written_is_the_one_that_is_looked_for(fedalign, tmp_path, said):
    words = ("run", "quickstart", *BRIEF, "rounds=1", *said, "--out", str(tmp_path))
    assert fedalign(*words).exit_code == 0
    (folder,) = tmp_path.iterdir()
    assert fedalign(*words).output.startswith(f"{folder} is finished already")
    tree = yaml.safe_load((folder / "config.yaml").read_text())
    for key, _, text in (word.partition("=") for word in said):
        found = tree
        for step in key.split("."):
            found = found[step]
        assert found == {"null": None, "": "", "010": 10, "1e-01": 0.1}[text]


def test_commas_make_a_sweep(fedalign, tmp_path):
    words = ("strategy=fedavg,fedpnu", "seed=0,1")
    result = fedalign("run", "quickstart", *BRIEF, *words, "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert len(list(tmp_path.iterdir())) == 4
    files = ("--figure", str(tmp_path / "x.png"), "--page", str(tmp_path / "x.html"))
    table = fedalign("report", *map(str, tmp_path.iterdir()), *files)
    assert re.search(r"\| fedavg +\| 2 +\|", table.output)
    assert re.search(r"\| fedpnu +\| 2 +\|", table.output)
    assert (tmp_path / "x.png").stat().st_size > 10_000
    assert "fedpnu, seed 1" in (tmp_path / "x.html").read_text()


def test_a_sweep_with_one_bad_value_starts_nothing(fedalign, tmp_path):
    result = fedalign("run", "quickstart", "strategy=fedavg,fedpnx", "--out", str(tmp_path))
    assert result.exit_code == 2
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["strategy=fedpfm"], "command line: strategy.name: 'fedpfm' is not a strategy"),
        (["partition.alpha=0"], "command line: partition.alpha: 0 is not allowed"),
        (["num_clients=5000"], "num_clients: 5000 clients"),
        (["model=cnn"], "cnn"),
        (
            ["data=fashion-mnist", "data.dir=/nowhere"],
            "data.dir: '/nowhere' does not hold fashion-mnist",
        ),
        (["partition.alpha"], "'partition.alpha' is not key=value"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(fedalign, tmp_path, words, told):
    result = fedalign("run", "quickstart", *words, "--out", str(tmp_path))
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert told in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_validate_says_what_a_run_would_do(fedalign):
    result = fedalign("validate", "quickstart", "clients_per_round=4")
    assert result.exit_code == 0, result.output
    assert "4 of 10 clients" in result.output
    assert "fedpfn (base fedavg, fixed_ratio 0.4, refresh 1, granularity weight, " in result.output


def test_validate_says_what_clients_keep_back(fedalign):
    told = fedalign("validate", "personalised", "partition=iid", "data.max_examples=100").output
    assert "7 to 7 examples per client, median 7; 3 to 3 more held out for testing" in told
    assert "10 of 10 clients test on their own examples (client_every 5, holdout 0.3" in told


def test_validate_shows_ones_own_images(fedalign, tmp_path):
    images, labels = np.zeros((40, 6, 5), np.uint8), np.arange(40) % 2
    np.savez(tmp_path / "train.npz", images=images, labels=labels)
    words = (f"data.dir={tmp_path}", "data.labels=cat dog", "partition=iid", "num_clients=4")
    result = fedalign("validate", "quickstart", "data=folder", *words)
    assert result.exit_code == 0, result.output
    assert f"own images, train part, from {tmp_path}/train.npz, SHA-256 " in result.output
    assert "40 training examples, 0 test examples, 2 classes" in result.output
    words = (f"data.dir={tmp_path}", "data.labels=cat")
    result = fedalign("validate", "quickstart", "data=folder", *words)
    assert result.exit_code == 2
    assert "data.labels: 'cat' is not allowed: give two or more different names" in result.stderr


@pytest.mark.skipif(version("click") >= "8.5", reason="see pyproject.toml")
def test_help_explains_arguments(fedalign):
    assert "YAML file, or its name in configs/" in fedalign("run", "--help").output


def test_list_names_every_part(fedalign):
    result = fedalign("list")
    assert result.exit_code == 0, result.output
    for name in ("fedavg", "fedpfn", "fedpnu", "dirichlet", "iid", "resnet20", "folder"):
        assert f"  {name} " in result.output
    assert "fixed_ratio=0.4" in result.output
    assert "(pip install 'fedalign[flwr-datasets]')" in result.output


def test_list_tells_all_about_a_part(fedalign):
    told = fedalign("list", "growing").output
    assert "schedules: growing" in told
    assert "length = 4  int > 0\n      number of steps of growth: rounds, or equal str" in told
    told = fedalign("list", "scaffold").output
    assert "strategies: scaffold" in told
    assert "clients: scaffold" in told


def test_list_by_kind_section_setting_and_file(fedalign):
    told = fedalign("list", "partitioners").output
    assert told.startswith("partitioners (partition=NAME)\n  iid ")
    assert "fedavg" not in told
    told = fedalign("list", "evaluation").output
    assert "  evaluation.pairs = 3  int >= 0\n" in told
    assert "rounds = " not in told
    assert "  evaluation.pairs = 3" in fedalign("list", "settings").output
    assert fedalign("list", "rounds").output.startswith("setting\n  rounds = 10  int > 0\n")
    for word in ("mu", "client.mu"):
        told = fedalign("list", word).output
        assert told.startswith("option of clients: fedprox\n  client.mu = 0.01  float >= 0\n")
        assert "option of clients: moon\n  client.mu = 1.0" in told
    assert "  quickstart " in fedalign("list", "configs").output
    assert "name: quickstart\nrounds: 20" in fedalign("list", "quickstart").output
    assert "Ways to fix weights, " in fedalign("list", "studies").output


@pytest.mark.parametrize(
    ("word", "near"),
    [("fedpfm", "fedpfn"), ("partitoners", "partitioners"), ("clip_nrm", "clip_norm"),
     ("evaluation.pair", "evaluation.pairs"), ("quikstart", "quickstart")],
)  # fmt: skip
def test_list_names_what_is_nearest_to_a_word_that_means_nothing(fedalign, word, near):
    result = fedalign("list", word)
    assert result.exit_code == 2
    told = f"error: {word!r} is not a part, a setting or a file of fedalign; did you mean {near!r}"
    assert result.stderr.startswith(told)


def test_version_and_short_help(fedalign):
    result = fedalign("--version")
    assert result.exit_code == 0
    assert re.match(
        r"fedalign \d+\.\d+\.\d+ \(flwr \d+\S+, torch \S+, ray \S+, Python 3", result.output
    )
    for words in ([], ["run"], ["deploy", "local"]):
        assert fedalign(*words, "-h").output == fedalign(*words, "--help").output
        assert fedalign(*words, "-h").exit_code == 0


def test_flower_simulation_runs_our_app(flower_simulation, tmp_path):
    brief = f'rounds=1 out="{tmp_path}" model.width=8 evaluation.pairs=0'
    result = flower_simulation(
        "--app", "fedalign", "--num-supernodes", "3", "--run-config", brief,
        "--run-config", 'strategy.name="fedpnu"', "--backend", "inline",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    (manifest,) = tmp_path.glob("*/manifest.json")
    assert json.loads(manifest.read_text())["num_clients"] == 3
    assert "fedpnu on digits" in result.output


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--app", "nowhere"], "'nowhere' is not a Flower app"),
        (["--app", "fedalign", "--run-config", "ruonds=3"], "did you mean 'rounds'?"),
        (["--app", "fedalign", "--backend", "rya"], "simulation.backend: 'rya' is not allowed"),
        (["--app", "fedalign", "--backend-config", "{"], "--backend-config: '{' is not JSON"),
        (["--app", "fedalign", "--backend-config", "[]"], "is not a JSON object"),
        (["--app", "fedalign", "--client-app", "a:b"], "give the app's folder by --app"),
    ],
)
def test_flower_simulation_refuses_in_one_line(flower_simulation, words, told):
    result = flower_simulation(*words)
    assert result.exit_code == 2, result.output
    assert told in result.stderr
    assert "Traceback" not in result.output


ONE_FILE = """
import json, sys
from logging import INFO
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.logger import log
from flwr.serverapp import ServerApp

client, server = ClientApp(), ServerApp()

@client.query()
def query(message, context):
    raise ValueError("a bug in the client")

@server.main()
def main(grid, context):
    nodes = list(grid.get_node_ids())
    log(INFO, "there are %d nodes", len(nodes))
    grid.send_and_receive([Message(RecordDict(), node, "query") for node in nodes])
    with open("found.txt", "w") as file:
        file.write(str(context.run_config["answer"]))
    if context.run_config["answer"] == 43:
        raise ValueError("43 is wrong")
"""
MANIFEST = """
[tool.flwr.app.components]
serverapp = "one_file:server"
clientapp = "one_file:client"
[tool.flwr.app.config]
answer = 42
[tool.flwr.federations]
default = "here"
here.options.num-supernodes = 3
here.options.backend.client-resources.num-cpus = 1
elsewhere.address = "127.0.0.1:9093"
"""


@pytest.fixture
def one_file(tmp_path, monkeypatch):
    """Return a Flower app of somebody else, beside the current folder."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "pyproject.toml").write_text(MANIFEST)
    (tmp_path / "app" / "one_file.py").write_text(ONE_FILE)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "one_file", raising=False)
    monkeypatch.delenv("FLWR_LOG_LEVEL", raising=False)
    monkeypatch.setenv("FLWR_HOME", "")
    monkeypatch.setenv("TF_FORCE_GPU_ALLOW_GROWTH", "")
    return str(tmp_path / "app")


def test_any_app_says_how_many_nodes_it_needs_and_what_it_logs(flower_simulation, one_file, caplog):
    former = ("--enable-tf-gpu-growth", "--flwr-dir", "home", "--delay-start", "3")
    result = flower_simulation("--app", one_file, "--backend", "inline", *former)
    assert result.exit_code == 0, result.output
    assert "there are 3 nodes" in caplog.text
    assert "ValueError: a bug in the client\nTraceback" in caplog.text
    assert "3 replies of clients were errors: 3 times ValueError" in caplog.text
    assert result.stderr.splitlines()[-1] == "wrote found.txt"
    assert Path("found.txt").read_text() == "42"
    assert "FLWR_LOG_LEVEL" not in os.environ  # Flower's own default, also in workers
    assert os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"
    assert os.environ["FLWR_HOME"] == str(Path("home").resolve())


def test_what_any_app_raises_is_named_after_its_traceback(flower_simulation, one_file):
    words = ("--num-supernodes", "1", "--backend", "inline", "--run-config", "answer=43")
    result = flower_simulation("--app", one_file, *words)
    assert result.exit_code == 1
    assert "Traceback" in result.stderr
    assert "in main" in result.stderr
    place = f"({one_file}/one_file.py:23)"
    line = f"error: --app: {one_file} failed: ValueError: 43 is wrong {place}"
    assert result.stderr.splitlines()[-1] == line


def test_doctor_says_what_will_be_done(fedalign):
    told = fedalign("doctor", "quickstart", "num_clients=100", "model.width=32").stdout
    headings = [line.split()[0] for line in told.splitlines()]
    assert headings == [
        "machine",
        "device",
        "engine",
        "threads",
        "stack",
        "mixes",
        "sums",
        "messages",
    ]
    assert "CPU, float32; the same seed gives the same bits" in told
    assert "auto: in this process, and on Ray workers too if clients keep it busy" in told
    assert (
        "13 of 100 clients are trained together: an eighth of 100 clients, so that workers" in told
    )
    assert "the models of 100 clients reach the server as at most 32 partial sums" in told
    assert "ms per client, measured with 100 clients and 3,466 numbers a message" in told


def test_doctor_knows_why_not(fedalign):
    words = ["simulation.stack=4", "strategy.base=fedmedian", "simulation.backend=flower"]
    told = fedalign("doctor", "quickstart", *words).stdout
    assert "4 of 10 clients are trained together: set by simulation.stack" in told
    assert "none: the strategy needs every single model" in told
    assert "flower: Flower's own, on Ray" in told


UNKNOWN = """
from torch import nn
def wide(shape, classes):
    return nn.Sequential(nn.ConvTranspose2d(shape[0], 2, 3), nn.Flatten(), nn.Linear(200, classes))
"""


def test_doctor_names_the_layer_that_cannot_be_stacked(fedalign, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "cannot.py").write_text(UNKNOWN)
    told = fedalign("doctor", "quickstart", "num_clients=100", "model=cannot:wide").stdout
    assert "clients train one by one, since layer '0' (ConvTranspose2d(1, 2, kernel_size=" in told
    mixes = "one by one, since on a CPU nothing is gained with convolutions (layer '0' (ConvTr"
    assert mixes in told
