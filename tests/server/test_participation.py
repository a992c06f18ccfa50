"""A run in which clients are missing says so: at its end, in the manifest, by its exit code."""

import json

import pytest
from typer.testing import CliRunner

from clients.local import Local
from fedalign.cli import app
from fedalign.server.participation import Participation, suggestion

TRAIN = Local.train
WORDS = ["run", "quickstart", "rounds=2", "num_clients=4", "partition=iid", "model.width=8"]
WORDS += ["simulation.stack=1", "evaluation.pairs=0"]


def test_failures_are_counted_by_reason_whatever_their_numbers():
    seen = Participation()
    seen.add([0, 1, 2, 3], [0], {1: "moved by 0.71, and 0.7 is most", 2: "KeyError: 'x'"})
    seen.add([1, 2], [2], {1: "moved by 12e-3, and 0.7 is most"})
    assert seen.facts() == {
        "sampled": 4,
        "took_part": 2,
        "never_took_part": [1, 3],
        "failures": {
            "moved by 0.71, and 0.7 is most": 2, "KeyError: 'x'": 1, "no answer in time": 1,
        },
    }  # fmt: skip
    assert seen.line().startswith("2 of 4 clients took part; failures: 2 times moved by 0.71")
    assert [seen.is_below(share) for share in (0, 0.5, 0.51)] == [False, False, True]
    assert Participation.restored(json.loads(json.dumps(seen.state()))) == seen
    assert Participation().line() is None
    assert suggestion(0.5, 30).startswith("min_replies=15 ")


@pytest.mark.parametrize(
    ("failing", "more", "code"),
    [
        (3, [], 3),
        (2, [], 0),
        (3, ["min_participation=0.25"], 0),
        (1, ["min_participation=1"], 3),
        (0, ["min_participation=1"], 0),
    ],
)
def test_a_run_that_limps_says_so(tmp_path, monkeypatch, failing, more, code):
    calls = []

    def train(self, stack):
        calls.append(None)
        if (len(calls) - 1) % 4 < failing:
            raise ZeroDivisionError("nothing to divide")
        return TRAIN(self, stack)

    monkeypatch.setattr(Local, "train", train)
    words = [*WORDS, "--out", str(tmp_path), *more]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == code, result.output
    (folder,) = tmp_path.iterdir()
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert manifest["participation"]["never_took_part"] == list(range(failing))
    told = f"{4 - failing} of 4 clients took part; failures: {2 * failing} times ZeroDivisionError"
    if code:
        assert result.stderr.startswith(f"error: {folder}: {told}")
        assert "; min_replies=" in result.stderr
        again = CliRunner().invoke(app, words)
        assert again.exit_code == 3
        assert told in again.stderr
    if failing:
        assert told in CliRunner().invoke(app, ["report", "--no-page", str(folder)]).output


def test_the_other_runs_of_a_sweep_run_all_the_same(tmp_path, monkeypatch):
    add = Participation.add
    monkeypatch.setattr(
        Participation, "add", lambda self, asked, used, why: add(self, asked, set(used) - {0}, why)
    )
    words = [*WORDS, "seed=0,1", "min_participation=1", "--out", str(tmp_path)]
    assert CliRunner().invoke(app, words).exit_code == 3
    finished = [json.loads(path.read_text()) for path in tmp_path.glob("*/manifest.json")]
    assert [manifest["status"] for manifest in finished] == ["finished"] * 2
