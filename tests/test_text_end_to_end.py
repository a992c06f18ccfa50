"""Text through the whole app: masks, stacks, clients that test, and how well it learns."""

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file

from fedalign.data.shakespeare import Excerpt
from fedalign.errors import InputError

SMALL = {
    "data": "shakespeare-excerpt",
    "data__window": 12,
    "data__max_examples": 200,
    "client__optimizer": "adam",
    "client__lr": 0.01,
    "rounds": 2,
}
MODELS = {
    "char-lstm": {"model": "char-lstm", "model__width": 12, "model__depth": 2},
    "char-transformer": {"model": "char-transformer", "model__width": 12, "model__heads": 2},
}


def settings_of(**settings):
    own = dict(settings)
    for key in ("data", "model", "strategy", "client", "partition"):
        if key in own:
            own[f"{key}__name"] = own.pop(key)
    return own


@pytest.mark.parametrize("model", MODELS)
def test_two_rounds_of_fedpfn(run, model):
    told = SMALL | MODELS[model] | {"strategy": "fedpfn", "simulation__stack": 2}
    told |= {"evaluation__client_fraction": 1.0, "evaluation__holdout": 0.2}
    folder = run(**settings_of(**told))
    metrics = pd.read_csv(folder / "metrics.csv")
    assert metrics["clients"].tolist() == [4, 4]
    assert metrics["test_loss"].iloc[-1] < np.log(81) + 0.1
    assert metrics["client_loss"].notna().all()
    assert (pd.read_csv(folder / "landscape.csv")["loss"] > 0).all()
    assert load_file(folder / "model.safetensors")["embedding.weight"].shape[0] == 81


@pytest.mark.parametrize("client", ["moon", "balanced-softmax"])
def test_features_and_losses_of_ones_own_on_text(run, client):
    told = SMALL | MODELS["char-lstm"] | {"client": client, "rounds": 1}
    metrics = pd.read_csv(run(**settings_of(**told)) / "metrics.csv")
    assert metrics["train_loss"].between(0, 10).all()


@pytest.mark.slow
def test_ray_and_this_process_give_the_same_bits(run):
    """Workers get the data with its groups, and train on the same windows."""
    told = (
        SMALL
        | MODELS["char-lstm"]
        | {"simulation__stack": 1, "simulation__partial_aggregation": False}
    )
    one, other = (
        load_file(
            run(**settings_of(**told, simulation__backend=backend, name=backend))
            / "model.safetensors"
        )
        for backend in ("inline", "ray")
    )
    for name, array in one.items():
        assert array.tobytes() == other[name].tobytes(), name


def test_a_model_of_images_is_refused_before_anything_is_written(run, tmp_path):
    with pytest.raises(InputError, match="'mlp' takes images, but this data is text"):
        run(**settings_of(**SMALL, model="mlp"))
    assert not list(tmp_path.glob("*/metrics.csv"))


def test_learning_goes_clearly_below_what_the_frequencies_of_characters_tell(run):
    """A model that looks at no character reaches their cross-entropy, 3.16 nats, at best."""
    train, test = (Excerpt().load(part) for part in ("train", "test"))
    share = (torch.bincount(train.labels, minlength=81) + 1) / (len(train) + 81)
    frequencies = float(-share[test.labels].log().mean())
    assert 3.0 < frequencies < 3.3
    told = {
        "data": "shakespeare-excerpt",
        "data__window": 8,
        "data__max_examples": 4000,
        "model": "char-lstm",
        "model__width": 32,
        "model__depth": 1,
        "client__optimizer": "adam",
        "client__lr": 0.01,
        "client__weight_decay": 0.0,
        "rounds": 3,
        "evaluation__pairs": 0,
        "evaluation__examples": 1000,
    }
    losses = pd.read_csv(run(**settings_of(**told)) / "metrics.csv")["test_loss"]
    assert losses.iloc[-1] < frequencies - 0.3
