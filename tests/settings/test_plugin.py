"""The example distribution, installed and used as its README says; and all kinds of plug-ins."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fedalign.cli import app
from fedalign.settings.builtin import BUILTIN
from fedalign.settings.registry import HOME, load, names

pytestmark = pytest.mark.xdist_group("plug-in")  # installed once
EXAMPLE = HOME / "examples" / "my-partitioner"
RUN = "rounds=1", "num_clients=4", "model.width=8", "data.max_examples=200", "evaluation.alphas=0"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Return a folder with the example installed, and one with its sources."""
    source = shutil.copytree(EXAMPLE, tmp_path_factory.mktemp("source") / "my-partitioner")
    target = tmp_path_factory.mktemp("site")
    offline = "--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check"
    command = [sys.executable, "-m", "pip", "install", "--quiet", *offline]
    subprocess.run([*command, "--target", target, source], check=True)
    return target, source


def python(target, *words, cwd):
    paths = os.pathsep.join([str(target), str(HOME)])
    environment = os.environ | {"PYTHONPATH": paths}
    done = subprocess.run(
        [sys.executable, *words], cwd=cwd, env=environment, capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


RUN_ALL = """
import json, sys
from typer.testing import CliRunner
from fedalign.cli import app

done = [CliRunner().invoke(app, words) for words in json.loads(sys.argv[1])]
print(json.dumps([(result.exit_code, result.output) for result in done]))
"""


def fedalign(target, *commands, cwd):
    """Return the exit code and the output of each command, all in one process."""
    code, told = python(target, "-c", RUN_ALL, json.dumps(commands), cwd=cwd)
    assert code == 0, told
    return json.loads(told.splitlines()[-1])


@pytest.mark.slow
def test_its_own_tests_pass(installed):
    code, told = python(installed[0], "-m", "pytest", "-q", installed[1], cwd=installed[1])
    assert code == 0, told
    assert "4 passed" in told


def test_it_is_listed_checked_and_run_like_a_built_in_one(installed, tmp_path):
    listed, refused, misspelt, done = fedalign(
        installed[0],
        ["list", "by-parity"],
        ["validate", "quickstart", "partition=by-parity", "partition.mixed=2"],
        ["validate", "quickstart", "partition=by-party"],
        ["run", "quickstart", "partition=by-parity", "partition.mixed=0.2", *RUN],
        cwd=tmp_path,
    )
    assert listed[0] == 0, listed
    assert "Every other client has examples of even classes" in listed[1]
    assert "mixed = 0.0  float >= 0, <= 1\n      share dealt to all alike" in listed[1]
    assert refused[0] == 2
    why = "partition.mixed: 2 is not allowed: input should be less than or equal to 1"
    assert why in refused[1]
    assert "'by-party' is not a partitioner; did you mean 'by-parity'?" in misspelt[1]
    assert done[0] == 0, done
    (config,) = tmp_path.glob("runs/*/config.yaml")
    assert "name: by-parity" in config.read_text()


def write_distribution(folder: Path, points: str) -> None:
    info = folder / "every_kind-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: every-kind\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)


EVERY_KIND = """
from flwr.serverapp.strategy import FedAvg
from torch import nn
from clients.local import Local

class Strategies(FedAvg): ...
class Clients(Local): ...
class Schedules:
    by_epochs = False
    def stretches(self, draw): ...
class Partitioners:
    def split(self, labels, num_clients, rng): ...
class Models(nn.Linear):
    def __init__(self, shape, classes): super().__init__(shape[0], classes)
class Datasets:
    def load(self, part): ...
class Trackers:
    def start(self, run): ...
    def log(self, number, metrics): ...
    def figure(self, name, figure): ...
    def finish(self, status): ...
class Fusions:
    def fuse(self, of): ...
"""


def test_parts_of_all_kinds_are_found_by_their_entry_points(tmp_path, monkeypatch):
    (tmp_path / "every_kind.py").write_text(EVERY_KIND)
    points = "".join(
        f"[fedalign.{kind}]\nmy-{kind} = every_kind:{kind.title()}\n" for kind in BUILTIN
    )
    write_distribution(tmp_path, points)
    monkeypatch.syspath_prepend(tmp_path)
    for kind in BUILTIN:
        assert names(kind)[-1] == f"my-{kind}"
        assert load(kind, f"my-{kind}").__name__ == kind.title()
    told = CliRunner().invoke(app, ["list"]).output
    assert [f"my-{kind}" in told for kind in BUILTIN] == [True] * len(BUILTIN)


def test_a_plug_in_that_cannot_be_imported_is_named_and_the_others_listed(tmp_path, monkeypatch):
    write_distribution(tmp_path, "[fedalign.partitioners]\nbroken = no_such_module:Thing\n")
    monkeypatch.syspath_prepend(tmp_path)
    result = CliRunner().invoke(app, ["list"])
    assert result.exit_code == 0, result.output
    told = result.output
    assert "broken" in told
    assert "'no_such_module:Thing' cannot be imported: No module named 'no_such_module'" in told
    assert "fashion-mnist" in told
