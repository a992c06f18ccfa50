"""Whole runs on a GPU against runs on the CPU: every family of models with every norm.

The same tests run with the CPU in the GPU's place, where they compare stacked with single clients.
"""

import csv
import importlib.util
from functools import cache

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn

from fedalign.data import Dataset
from fedalign.federation.federation import Federation
from fedalign.runs.paths import folder_of
from fedalign.settings.config import resolve
from fedalign.settings.registry import HOME
from fedalign.simulation import FlowerApp, simulate

GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]
QUICK = ("mlp", "lenet5")


def everywhere(names):
    """Each model on the CPU, where most of them are slow, and on the GPU."""
    cases = [
        pytest.param(name, "cpu", marks=[] if name in QUICK else pytest.mark.slow) for name in names
    ]
    cases += [pytest.param(name, "cuda", marks=GPU) for name in names]
    return pytest.mark.parametrize(("name", "device"), cases)


class Made:
    """Learnable images, 1x28x28, of ten classes."""

    def load(self, part):
        count, seed = (80, 0) if part == "train" else (20, 1)
        generator = torch.Generator().manual_seed(seed)
        labels = torch.arange(count) % 10
        images = torch.randint(0, 128, (count, 1, 28, 28), generator=generator)
        for image, label in zip(images, labels.tolist(), strict=True):
            image[:, 2 * label : 2 * label + 4] += 127
        return Dataset(images.to(torch.uint8), labels, 10, (0.4,), (0.2,), "made up")


def dropping(shape, classes):
    return nn.Sequential(
        nn.Conv2d(shape[0], 4, 5), nn.ReLU(), nn.MaxPool2d(4), nn.Dropout(0.25), nn.Flatten(),
        nn.Linear(144, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, classes),
    )  # fmt: skip


TEXT = {"data": "shakespeare-excerpt", "data.max_examples": 80}
MODELS = {
    "mlp": {"model": "mlp", "model.width": 32},
    "cnn": {"model": "cnn", "model.width": 8},
    "lenet5": {"model": "lenet5"},
    **{f"resnet20 {n}": {"model": "resnet20", "model.norm": n} for n in ("none", "batch", "group")},
    **{
        f"vgg {n}": {"model": "vgg", "model.width": 8, "model.norm": n}
        for n in ("none", "batch", "group")
    },
    "vit": {"model": "vit", "model.width": 16, "model.depth": 2, "model.patch": 7},
    "char-lstm": {"model": "char-lstm", "model.width": 16, **TEXT},
    "char-transformer": {"model": "char-transformer", "model.width": 16, **TEXT},
}
if importlib.util.find_spec("fedalign.network.random_layers"):  # dropout depends on the seed alone
    MODELS["dropout"] = {"model": f"{__name__}:dropping"}
BASE = {
    "data": f"{__name__}:Made", "num_clients": 4, "partition": "iid", "rounds": 2,
    "client.lr": 0.05, "client.batch_size": 10, "strategy": "fedpfn", "evaluation.alphas": 3,
    "evaluation.pairs": 1, "evaluation.examples": None, "simulation.partial_aggregation": False,
}  # fmt: skip


@pytest.fixture(scope="session")
def play(tmp_path_factory):
    """Run a model on a device with so many clients in a stack; returns the run folder."""

    @cache
    def play(name, device, stack, precision="float32", again=False):  # noqa: ARG001
        out = tmp_path_factory.mktemp("runs")
        more = {"device": device, "simulation.stack": stack, "precision": precision}
        config = resolve(None, BASE | MODELS[name] | more | {"out": str(out)})
        app = FlowerApp(HOME, "fedalign.server_app:app", "fedalign.client_app:app", {})
        simulate(app, config.num_clients, config.run_config())
        return folder_of(config)

    return play


def parameters(tensors):
    """All numbers of a model as one vector, without those that count batches."""
    return np.concatenate([
        np.ravel(array).astype(np.float64)
        for name, array in sorted(tensors.items())
        if "num_batches" not in name
    ])  # fmt: skip


def start(name):
    """The numbers of the model that a run begins with."""
    record = Federation(resolve(None, BASE | MODELS[name] | {"device": "cpu"})).network.initial
    return parameters({key: array.numpy() for key, array in record.items()})


def table(folder, name):
    with (folder / name).open(newline="") as file:
        return list(csv.DictReader(file))


def off(found, expected, begun):
    """How far a model is from the expected one, as a share of how far training has moved it."""
    return np.linalg.norm(found - expected) / np.linalg.norm(expected - begun)


@pytest.mark.parametrize("stack", [1, 4])
@everywhere(MODELS)
def test_every_model_trains_as_it_does_alone_on_the_cpu(play, name, stack, device):
    expected, found = play(name, "cpu", 1), play(name, device, stack)
    models = [parameters(load_file(f / "model.safetensors")) for f in (found, expected)]
    assert off(*models, start(name)) < 0.1
    ours, theirs = (table(folder, "metrics.csv")[-1] for folder in (found, expected))
    for key in ("train_loss", "test_loss"):
        assert float(ours[key]) == pytest.approx(float(theirs[key]), rel=0.02, abs=0.02)


@everywhere(MODELS)
def test_one_seed_gives_the_same_bits_twice(play, name, device):
    first, second = (play(name, device, 4, again=again) for again in (False, True))
    assert first != second
    for file in ("model.safetensors", "landscape.csv", "barriers.csv"):
        assert (first / file).read_bytes() == (second / file).read_bytes(), file


@everywhere([name for name in MODELS if "batch" not in name])
def test_the_end_of_a_path_is_the_model_itself(play, name, device):
    """Mixes are evaluated at once, the global model alone; BatchNorm is re-estimated in mixes."""
    folder = play(name, device, 4)
    ends = [
        row for row in table(folder, "landscape.csv")
        if row["path"] == "global" and float(row["alpha"]) == 1
    ]  # fmt: skip
    rounds = table(folder, "metrics.csv")
    assert len(ends) == len(rounds) == 2
    for end, whole in zip(ends, rounds, strict=True):
        assert float(end["loss"]) == pytest.approx(float(whole["test_loss"]), rel=1e-3)
        assert float(end["accuracy"]) == pytest.approx(float(whole["test_accuracy"]), abs=0.02)


@everywhere(["mlp", "cnn", "resnet20 group"])
def test_bf16_is_near_float32(play, name, device):
    exact, rough = play(name, device, 4), play(name, device, 4, precision="bf16")
    models = [parameters(load_file(f / "model.safetensors")) for f in (rough, exact)]
    assert 0 < off(*models, start(name)) < 0.3
