"""Runs that end before their last round, and models that they keep."""

import json

import pandas as pd
import pytest
from safetensors.numpy import load_file

from fedalign.commands.choices import combined
from fedalign.errors import InputError
from fedalign.landscape.connect import how
from fedalign.report.reading import read_runs
from fedalign.report.tables import groups, remarks
from fedalign.runs.folder import RunFolder
from fedalign.runs.models import facts_in, missing_models
from fedalign.runs.stopping import StopRule, is_better
from fedalign.settings.config import read
from tests.runs.test_checkpoint import interrupt, results  # noqa: F401 - a fixture


def rule(values, **settings):
    """The round after which a run with these accuracies ends, and why."""
    found = StopRule(read(None, {"rounds": 9} | settings))
    for number, value in enumerate(values, 1):
        found._see(number, {} if value is None else {"test_accuracy": value})
        if found.reason:
            break
    return found.last, found.reason


def test_stop_when_is_a_metric_a_comparison_and_a_number():
    settings = {"stop_when": "test_accuracy >= 0.9"}
    assert rule([0.5, 0.9, 0.95], **settings) == (
        2,
        "test_accuracy is 0.9, and stop_when is test_accuracy >= 0.9",
    )
    assert rule([0.5, float("nan"), None], **settings) == (3, None)
    assert rule([0.5, 0.9, 0.91], stop_when="test_accuracy>.9")[0] == 3


@pytest.mark.parametrize(
    ("values", "min_delta", "last"),
    [
        ([0.5, 0.6, 0.6, 0.6, 0.7], 0.0, 4),  # round 2 is the best, and two rounds are not better
        ([0.5, 0.6, 0.55, 0.61, 0.6, 0.6], 0.0, 6),
        ([0.5, 0.6, 0.55, 0.61, 0.6, 0.6], 0.05, 4),
        ([0.5, None, None, 0.6, None, None], 0.0, 6),  # what is not measured decides nothing
        ([float("nan"), 0.5, float("nan"), float("nan")], 0.0, 4),
    ],
)
def test_patience_counts_rounds_since_the_best(values, min_delta, last):
    own = {"patience.rounds": 2, "patience.min_delta": min_delta}
    found, reason = rule(values, **own)
    assert found == last
    assert (reason is None) == (values[last - 1] is None)


def test_the_last_round_ends_a_run_without_a_rule():
    assert rule([0.5] * 8 + [0.9], stop_when="test_accuracy > 0.8") == (9, None)
    found = StopRule(read(None, {"stop_when": "client_loss_barrier < 1"}))
    found._see(1, {"test_accuracy": 0.5})
    assert found.end() == "; no round has measured client_loss_barrier"


def test_losses_barriers_and_gaps_should_be_low():
    assert is_better("test_loss", 1.0, 2.0)
    assert is_better("client_accuracy_barrier", 0.1, 0.2)
    assert not is_better("client_accuracy_worst10", 0.1, 0.2)
    assert not is_better("test_loss", float("nan"), None)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("stop_when=test_accurcy>=0.9", "did you mean 'test_accuracy'?"),
        ("stop_when=seconds>=9", "'seconds' is no metric of this run"),
        ("keep_best=client_accuracy_mean", "is no metric of this run"),  # clients do not evaluate
        ("patience.metric=accuracy", "did you mean"),
        ("patience.metrc=accuracy", "did you mean 'metric'?"),
        ("stop_when=test_accuracy=0.9", "give a metric, one of"),
        ("stop_when=test_accuracy>=inf", "give a metric, one of"),
        ("keep_models=[1,0]", "0 is no round"),
        ("keep_models=[1,true]", "true is no round"),
        ("keep_models=first", "'first' is no round"),
        ("keep_models=[11]", "the run has 10 rounds"),
    ],
)
def test_what_cannot_be_is_refused_at_the_start(word, told):
    with pytest.raises(InputError, match=told.replace("?", r"\?")) as error:
        combined("quickstart", ["rounds=10", word], None)
    assert word.partition("=")[0] in str(error.value)


def test_spellings_name_one_run_and_no_rule_leaves_the_name_as_it_was():
    def digest(**settings):
        return read(None, settings).digest()

    usual = digest()
    assert digest(stop_when="test_accuracy>=.90") == digest(stop_when="test_accuracy >= 0.9")
    assert digest(stop_when="test_accuracy >= 0.9") != usual
    assert digest(**{"patience.rounds": 5}) != usual
    assert digest(keep_models="all", keep_best="test_loss", stop_when=None, patience=None) == usual
    assert read(None, {"keep_models": 3}).keep_models == [3]


ENDING = {"rounds": 6, "checkpoint_every": 1, "patience__metric": "clients", "patience__rounds": 3}


@pytest.mark.parametrize("overlap", [True, False])
def test_a_run_that_ends_early_is_a_run_of_fewer_rounds(run, capsys, overlap):
    settings = ENDING | {"evaluation__overlap": overlap}
    folder = run(**settings, name="early")
    last = capsys.readouterr().out.splitlines()[-1]
    reason = "clients has not improved since round 1 (4)"
    assert last == f"results in {folder}; ended after round 4 of 6: {reason}"
    whole = run(rounds=4, name="whole")
    assert results(folder)[2] == results(whole)[2]
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert manifest["stopped_early"] == {"round": 4, "of": 6, "reason": reason}
    found = read_runs([folder, whole])
    assert remarks(found, groups(found)) == [f"{folder}: ended after round 4 of 6: {reason}"]


def test_a_resumed_run_ends_after_the_same_round(run, interrupt, monkeypatch):  # noqa: F811
    settings = ENDING | {"keep_models": ["last"], "keep_best": "test_loss"}
    folder = run(**settings)
    whole, kept = results(folder), models(folder)
    interrupt(2, **settings)
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save", interrupted)  # when it has decided to end
        with pytest.raises(KeyboardInterrupt):
            run(**settings)
    run(**settings)
    assert results(folder) == whole
    assert models(folder) == kept
    assert json.loads((folder / "manifest.json").read_text())["resumed_after"] == [1, 4]


def test_what_a_resumed_run_can_keep_no_more_is_said(run, interrupt, caplog):  # noqa: F811
    interrupt(4, rounds=6, checkpoint_every=1)
    folder = run(rounds=6, checkpoint_every=1, keep_models="all", keep_best="test_loss")
    assert "keep_models: the models of round 1, 2, 3 were not kept" in caplog.text
    assert "keep_best: best.safetensors is the best round after 3" in caplog.text
    assert {p.name for p in folder.glob("models/*")} == {"round-4", "round-5", "round-6"}


def interrupted(*_):
    raise KeyboardInterrupt


def models(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.safetensors")}


@pytest.mark.parametrize("partial_aggregation", [True, False])
def test_models_are_kept_and_connect_takes_them(run, partial_aggregation):
    settings = {"simulation__partial_aggregation": partial_aggregation, "keep_best": "test_loss"}
    folder = run(rounds=3, keep_models=[1, "last"], clients_per_round=3, **settings)
    rounds = {path.name: sorted(p.name for p in path.iterdir()) for path in folder.glob("models/*")}
    assert rounds.keys() == {"round-1", "round-3"}
    sampled = pd.read_csv(folder / "sampled.csv")
    for number in (1, 3):
        clients = sampled[sampled["round"] == number]["client"]
        names = [*(f"client-{client}.safetensors" for client in clients), "global.safetensors"]
        assert rounds[f"round-{number}"] == names
    after = load_file(folder / "models/round-3/global.safetensors")
    own = [load_file(path) for path in folder.glob("models/round-3/client-*")]
    final = load_file(folder / "model.safetensors")
    for name, tensor in after.items():
        assert tensor.tobytes() == final[name].tobytes()
        mean = sum(model[name].astype(float) for model in own) / 3  # of 75 examples each
        assert abs(tensor - mean).max() < 1e-6
    metrics = pd.read_csv(folder / "metrics.csv")
    at = metrics["test_loss"].idxmin()
    facts = {"round": at + 1, "test_loss": metrics["test_loss"][at]}
    assert facts_in(folder / "best.safetensors") == facts
    first = next(folder.glob("models/round-1/client-*"))
    assert how([first], [], None, {"model": None, "data": None}).model.options["width"] == 16


def test_keeping_models_changes_no_number(run):
    plain = run(name="plain", evaluation__fusion_gap=False)
    kept = run(name="kept", keep_models="all")
    assert results(plain) == results(kept)


def test_a_finished_run_says_what_it_has_not_kept(run):
    folder = run(keep_models=[2], keep_best="test_loss", **ENDING)

    def missing(**more):
        settings = {key.replace("__", "."): value for key, value in (ENDING | more).items()}
        known = read(str(folder / "config.yaml"), settings)
        return missing_models(known)

    assert missing() is None
    assert missing(keep_models=[2, 6]) is None  # it ended before round 6
    told = f"{folder} has not kept the clients' models of round 4"
    assert missing(keep_models=[2, "last"]) == told
    assert "round 1, 3, 4 and the model" in missing(keep_models="all", keep_best="test_accuracy")
