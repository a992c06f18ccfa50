"""Runs that start from another run: what they gain, what they send, and that their models load."""

import json

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

import fedalign
from fedalign.federation.federation import Federation
from fedalign.report.evaluation import evaluate, how
from fedalign.settings.config import read

VIT = {
    **{"model": "vit", "model__patch": 2, "model__width": 16, "model__depth": 1},
    **{"client__optimizer": "adam", "client__lr": 0.01, "partition": "iid", "strategy": "fedavg"},
}
START = {"rounds": 1, "client__epochs": 1, "evaluation__alphas": 0}


@pytest.fixture
def pretrained(run):
    """The folder of a run on nine of the ten digits."""
    return run(**VIT, data__classes="0-8", rounds=4, client__epochs=4, name="pre")


@pytest.mark.slow
def test_a_pretrained_start_is_ahead_and_what_is_frozen_is_not_sent(run, pretrained):
    start = VIT | START | {"model__weights": str(pretrained)}
    scores = {}
    for name, settings in {
        "scratch": VIT | START,
        "all": start,
        "head": start | {"model__frozen": "body"},
    }.items():
        folder = run(**settings, name=name)
        scores[name] = pd.read_csv(folder / "metrics.csv").iloc[-1]
    assert scores["all"].test_accuracy > scores["scratch"].test_accuracy + 0.2
    assert scores["head"].test_accuracy > scores["scratch"].test_accuracy
    assert scores["all"].bytes_up == scores["scratch"].bytes_up
    assert scores["head"].bytes_up < scores["all"].bytes_up / 5
    manifest = json.loads((folder / "manifest.json").read_text())
    trained, fixed = (manifest["model"][key] for key in ("parameters", "constants"))
    assert trained == 16 * 10 + 10
    assert trained + fixed == Federation(read(None, dotted(VIT))).network.layout.num_parameters
    assert manifest["model"]["anew"].startswith("head fc.weight (10, 16) starts anew; the file")
    assert list(manifest["identity"]["weights"]) == [str(pretrained / "model.safetensors")]
    body = load_file(pretrained / "model.safetensors")
    for name, tensor in load_file(folder / "model.safetensors").items():
        assert torch.equal(tensor, body[name]) != name.startswith("fc.")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["frozen", "adapters"])
def test_every_model_of_such_a_run_loads_and_is_what_was_measured(run, pretrained, kind):
    if kind == "adapters":
        pytest.importorskip("peft")
    part = {"frozen": {"model__frozen": "body"}, "adapters": {"model__adapters__rank": 2}}[kind]
    settings = VIT | START | part | {"model__weights": str(pretrained), "keep_models": "all"}
    folder = run(**settings, keep_best="test_accuracy")
    loaded = fedalign.load(folder)
    images, labels = loaded.examples("test")
    accuracy = float(loaded.metrics.test_accuracy.iloc[-1])
    for module in (loaded.model(), loaded.model("best")):
        assert float((module(images).argmax(1) == labels).float().mean()) == pytest.approx(accuracy)
    clients = loaded.client_models(1)
    assert len(clients) == 4
    assert not torch.equal(clients[0].fc.weight, clients[1].fc.weight)
    told, _ = evaluate(*how(folder, [], None))
    assert f"accuracy {accuracy:.4f}" in told


def dotted(settings):
    return {key.replace("__", "."): value for key, value in settings.items()}
