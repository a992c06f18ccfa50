"""Text through the whole app: masks, stacks, clients that test, and how well it learns."""

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file
from torch.nn import functional

from fedalign.data.shakespeare import Excerpt
from fedalign.errors import InputError
from fedalign.federation.federation import Federation
from fedalign.masks.phases import update_mask
from fedalign.masks.plan import MaskPlan
from fedalign.models.text import char_lstm
from fedalign.settings.config import read

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
    """Both halves learn, and what is fixed stays as it was."""
    told = SMALL | MODELS[model] | {"strategy": "fedpfn", "strategy__refresh": 0}
    told |= {"evaluation__client_fraction": 1.0, "evaluation__holdout": 0.2}
    told |= {"client__lr": 0.03, "client__batch_size": 8, "simulation__stack": 2}
    folder = run(**settings_of(**told))
    metrics = pd.read_csv(folder / "metrics.csv")
    assert metrics["clients"].tolist() == [4, 4]
    for column in ("test_loss", "client_loss"):
        assert metrics[column].iloc[-1] < np.log(81) - 0.3
    network = Federation(read(str(folder / "config.yaml"), {})).network
    model = load_file(folder / "model.safetensors")
    assert model["embedding.weight"].shape[0] == 81
    trains = update_mask(MaskPlan(0, 0, 0.4), network.layout)
    for entry in network.layout.parameters:
        own, before = entry.view(trains).numpy(), network.initial[entry.name].numpy()
        assert np.array_equal(model[entry.name] == before, ~own)


@pytest.mark.parametrize("client", ["moon", "balanced-softmax"])
def test_losses_of_algorithms_on_text_by_hand(run, client):
    """Before anything is learnt MOON adds log 2, and balanced softmax the logs of counts."""
    told = SMALL | MODELS["char-lstm"] | {"client": client, "rounds": 1}
    told |= {"client__lr": 1e-12, "client__batch_size": 1000}
    folder = run(**settings_of(**told))
    module = char_lstm((12,), 81, width=12, depth=2)
    module.load_state_dict(
        {
            key: torch.from_numpy(value)
            for key, value in load_file(folder / "model.safetensors").items()
        }
    )
    federation = Federation(read(str(folder / "config.yaml"), {}))
    data, losses = federation.train, []
    for rows in federation.shards(4):
        labels = data.labels[rows]
        logits = module(data.images[rows].long()).detach()
        if client == "balanced-softmax":
            logits += torch.bincount(labels, minlength=81).log()
        losses.append(functional.cross_entropy(logits, labels, reduction="none"))
    expected = float(torch.cat(losses).mean()) + (np.log(2) if client == "moon" else 0)
    (loss,) = pd.read_csv(folder / "metrics.csv")["train_loss"]
    assert loss == pytest.approx(expected, rel=1e-5)


@pytest.mark.usefixtures("ray")
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
    with pytest.raises(
        InputError, match=r"^model: 'mlp' on text of .* which 'char-lstm' and 'char-t"
    ):
        run(**settings_of(**SMALL, model="mlp"))
    assert not list(tmp_path.glob("*/metrics.csv"))


@pytest.mark.parametrize(
    "model", ["char-lstm", pytest.param("char-transformer", marks=pytest.mark.slow)]
)
def test_learning_goes_clearly_below_what_the_frequencies_of_characters_tell(run, model):
    """A model that looks at no character reaches their cross-entropy, 3.16 nats, at best."""
    train, test = (Excerpt().load(part) for part in ("train", "test"))
    share = (torch.bincount(train.labels, minlength=81) + 1) / (len(train) + 81)
    frequencies = float(-share[test.labels].log().mean())
    assert 3.0 < frequencies < 3.3
    told = {
        "data": "shakespeare-excerpt",
        "data__window": 8,
        "data__max_examples": 4000,
        "model": model,
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
