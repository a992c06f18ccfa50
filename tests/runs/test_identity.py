"""A run is its settings, its code and its data: what has changed since is said first."""

import json
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from fedalign.cli import app
from fedalign.federation import federation
from fedalign.federation.federation import Federation
from fedalign.runs import identity
from fedalign.runs.identity import changes
from fedalign.runs.sources import files_of, hashes, packages_of, tops_of
from fedalign.settings.config import read

STRATEGY = """
from flwr.serverapp.strategy import FedAvg

import theirs_lib

class Mine(FedAvg):
    pass
"""
WORDS = ["rounds=1", "num_clients=2", "evaluation.pairs=0", "model.width=8", "partition=iid"]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with a strategy of one's own, a module that it imports, and data."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(identity, "_known", {})
    (tmp_path / "theirs_fl.py").write_text(STRATEGY)
    (tmp_path / "theirs_lib.py").write_text("import json, numpy\n")
    data(tmp_path, 0)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("theirs")]:
        del sys.modules[name]


def data(folder, seed):
    images = np.random.default_rng(seed).integers(0, 255, (40, 4, 4), dtype=np.uint8)
    np.savez(folder / "train.npz", images=images, labels=np.arange(40) % 2)
    np.savez(folder / "test.npz", images=images[:8], labels=np.arange(8) % 2)


def fedalign(*more, command=("run",)):
    identity._known.clear()
    federation._federations.clear()  # what one process keeps of the run before
    words = ["strategy=theirs_fl:Mine", "data=folder", "data.dir=.", "data.labels=a b", *more]
    return CliRunner().invoke(app, [*command, "quickstart", *WORDS, *words])


CHANGES = {
    "a line of the strategy": (
        lambda folder: (folder / "theirs_fl.py").write_text(STRATEGY + "# new\n"),
        "theirs_fl.py has changed",
    ),
    "what it imports": (
        lambda folder: (folder / "theirs_lib.py").write_text("x = 1"),
        "theirs_lib.py has changed",
    ),
    "the data": (lambda folder: data(folder, 1), "the test data has changed"),
    "no data": (lambda folder: (folder / "test.npz").unlink(), "the test data is gone"),
    "fedalign": (lambda folder: age(folder), "fedalign was 0.0.1 and is"),
}


def age(folder):
    (path,) = folder.glob("runs/*/manifest.json")
    manifest = json.loads(path.read_text())
    manifest["identity"]["fedalign"] = "0.0.1"
    path.write_text(json.dumps(manifest))


@pytest.mark.parametrize("what", CHANGES)
def test_a_finished_run_whose_code_or_data_changed_is_not_reused_in_silence(place, what):
    change, told = CHANGES[what]
    assert fedalign().exit_code == 0
    assert "is finished already" in fedalign().stdout
    change(place)
    refused = fedalign()
    assert refused.exit_code == 2
    assert refused.stdout == ""
    assert told in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert "is finished already" in fedalign("--reuse").stdout
    if what != "no data":
        assert "results in" in fedalign("--again").stdout
        assert "is finished already" in fedalign().stdout


def test_so_is_a_deployed_one(place, monkeypatch):
    """Whose folder has another name; no process starts for any of these."""
    assert fedalign("name=quickstart-deployed").exit_code == 0
    monkeypatch.setattr("fedalign.deploy.local.Local", lambda *_: pytest.fail("processes start"))
    local = ("deploy", "local")
    assert "is finished already; use" in fedalign(command=local).stdout
    data(place, 1)
    refused = fedalign(command=local)
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "the test data has changed" in refused.stderr
    assert "is finished already; use" in fedalign("--reuse", command=local).stdout
    nodes = fedalign("--reuse", "--data", ".", "--data", ".", command=local)
    assert "finished already (the data of its nodes were not compared); use" in nodes.stdout


def test_nothing_of_a_sweep_starts_if_one_run_has_changed(place):
    assert fedalign("seed=1").exit_code == 0
    data(place, 2)
    assert fedalign("seed=0,1").exit_code == 2
    assert len(list(place.glob("runs/*"))) == 1


def test_a_resumed_run_records_what_changed(run, monkeypatch, place, caplog):
    from clients.local import Local

    train = Local.train

    def stop(self, stack):
        if stack.server_round == 3:
            raise KeyboardInterrupt
        return train(self, stack)

    settings = {"strategy": "theirs_fl:Mine", "rounds": 4}
    with monkeypatch.context() as patch:
        patch.setattr(Local, "train", stop)
        with pytest.raises(KeyboardInterrupt):
            run(**settings)
    (place / "theirs_lib.py").write_text("x = 2")
    manifest = json.loads((run(**settings) / "manifest.json").read_text())
    (changed,) = manifest["changed"]
    assert changed["after"] == 2
    assert changed["what"][0].startswith("theirs_lib.py has changed")
    assert "since round 2, theirs_lib.py has changed" in caplog.text


def test_the_files_of_a_package_are_those_of_its_parts(place):
    (place / "theirs").mkdir()
    for name in ("__init__", "models", "unused"):
        (place / "theirs" / f"{name}.py").write_text(
            "from torch import nn\n"
            "def net(shape: tuple[int, int, int], classes: int) -> nn.Module:\n"
            "    return nn.Sequential(nn.Flatten(), nn.Linear(64, classes))\n"
        )
    config = read(None, {"model": "theirs.models:net", "strategy": "fedpfn", "seed": 3})
    names = ["theirs/__init__.py", "theirs/models.py", "theirs/unused.py"]
    assert list(files_of(config)) == names
    nested = read(None, {"strategy": "fedpfn", "strategy.base": "theirs_fl:Mine"})
    assert list(files_of(nested)) == ["theirs_fl.py", "theirs_lib.py"]
    assert len(set(hashes(files_of(nested)).values())) == 2
    assert files_of(read("quickstart", {})) == packages_of(tops_of(read("quickstart", {}))) == {}


def test_the_manifest_has_the_users_repository_and_the_versions_of_packages(run, place):
    for words in (["init", "-q"], ["add", "theirs_fl.py"], ["commit", "-qm", "one"]):
        subprocess.run(
            ["git", "-c", "user.name=n", "-c", "user.email=e", *words], cwd=place, check=True
        )
    manifest = json.loads((run(strategy="theirs_fl:Mine", rounds=1) / "manifest.json").read_text())
    (commit,) = manifest["repositories"].values()
    assert len(commit) == 40
    (place / "theirs_fl.py").write_text(STRATEGY + "\n")
    manifest = json.loads((run(strategy="theirs_fl:Mine", rounds=1) / "manifest.json").read_text())
    assert manifest["repositories"] == {str(place): f"{commit}+"}
    assert set(manifest["identity"]) == {"fedalign", "files", "packages", "weights", "data"}
    assert set(manifest["identity"]["data"]) == {"training", "test"}


def test_what_was_not_noted_is_no_change():
    now = {"fedalign": "1", "files": {"a.py": "1"}, "packages": {}, "data": {"test": "2"}}
    assert changes({}, now) == []
    assert changes(now, {}) == []
    assert changes({"files": {"a.py": "0", "b.py": "1"}, "packages": {"x": "1"}}, now) == [
        "a.py has changed (0 to 1)", "b.py is gone", "package x is gone",
    ]  # fmt: skip


def test_the_digest_is_of_the_examples_and_not_of_their_place(tmp_path):
    found = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        data(tmp_path / name, seed)
        options = {"data": "folder", "data.dir": str(tmp_path / name), "data.labels": "a b"}
        found.append(identity.identity(Federation(read(None, options)))["data"])
    assert found[0] == found[1]
    assert found[0]["training"] != found[2]["training"]
