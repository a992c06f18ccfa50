"""The personalised view: what clients keep back, what they measure, and what is made of it."""

import numpy as np
import pandas as pd
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_tensors
from torch.nn import functional

from fedalign import client_app
from fedalign.errors import InputError
from fedalign.federation.examples import hold_out
from fedalign.federation.federation import Federation, federation_of
from fedalign.network.layout import Layout
from fedalign.rng import rng
from fedalign.server.client_metrics import columns, spread
from fedalign.settings.config import read
from fedalign.settings.sections import Evaluation
from fedalign.simulation.inline import InlineGrid

ALL_CLIENTS = {
    "evaluation__client_fraction": 1,
    "evaluation__holdout": 0.3,
    "evaluation__finetune_epochs": 2,
}


@given(st.lists(st.integers(0, 10**6), unique=True), st.floats(0, 1, exclude_max=True))
def test_a_share_is_kept_back_exactly_and_never_all(owned, share):
    rows = np.array(owned, np.int64)
    trained, kept = hold_out(rows, share, rng(3))
    assert len(kept) == max(0, min(round(share * len(rows)), len(rows) - 1))
    assert sorted([*trained, *kept]) == sorted(owned)
    for part in (trained, kept):
        assert list(part) == [row for row in owned if row in set(part)]  # in their order
    again = hold_out(rows, share, rng(3))
    assert np.array_equal(trained, again[0])


@pytest.mark.parametrize(("examples", "kept"), [(1, 0), (2, 1), (5, 2), (7, 4), (8, 4)])
def test_halves_are_rounded_to_even_and_one_example_trains(examples, kept):
    assert len(hold_out(np.arange(examples), 0.5, rng(0))[1]) == kept


def test_every_client_has_a_draw_of_its_own_from_the_seed():
    def federation(**settings):
        settings = {f"evaluation.{k}": v for k, v in settings.items() if k != "seed"} | {
            k: v for k, v in settings.items() if k == "seed"
        }
        return Federation(read(None, settings))

    whole, split, again = federation(), federation(holdout=0.3), federation(holdout=0.3)
    owned = whole.shards(7)
    assert [len(rows) for rows in whole.holdouts(7)] == [0] * 7
    for mine, trained, kept in zip(owned, split.shards(7), split.holdouts(7), strict=True):
        assert len(kept) == round(0.3 * len(mine))
        assert np.array_equal(np.sort(np.concatenate([trained, kept])), mine)
    assert all(map(np.array_equal, split.holdouts(7), again.holdouts(7)))
    expected = hold_out(owned[4], 0.3, rng(0, "holdout", 4))[1]
    assert np.array_equal(split.holdouts(7)[4], expected)


def test_the_spread_by_hand():
    found = spread([{"accuracy": 0.9, "loss": 7.0}, {"accuracy": 0.1}, {"accuracy": 0.5}])
    assert found == pytest.approx(
        {"accuracy_mean": 0.5, "accuracy_std": (0.32 / 3) ** 0.5, "accuracy_worst10": 0.1}
    )
    assert spread([]) == {}


@pytest.mark.parametrize(("clients", "worst"), [(1, 0), (10, 0), (19, 0), (20, 0.5), (39, 1)])
def test_the_worst_tenth_is_rounded_down_but_one(clients, worst):
    told = [{"tuned_accuracy": float(i)} for i in reversed(range(clients))]
    assert spread(told)["tuned_accuracy_worst10"] == worst


def test_columns_are_what_a_run_measures():
    assert columns(Evaluation()) == []
    plain = ["client_loss", "client_accuracy"]
    plain += ["client_accuracy_mean", "client_accuracy_std", "client_accuracy_worst10"]
    assert columns(Evaluation(client_fraction=0.1)) == plain
    both = columns(Evaluation(client_fraction=0.1, finetune_epochs=1))
    assert both == plain + [name.replace("client_", "client_tuned_") for name in plain]


def by_hand(model, weights, images, labels, trained, kept, local, stream):
    """Loss and accuracy on `kept` before and after local SGD on `trained`, in plain PyTorch."""

    def measured():
        with torch.no_grad():
            logits = model.eval()(images[kept])
        loss = functional.cross_entropy(logits, labels[kept]).item()
        return [loss, (logits.argmax(1) == labels[kept]).double().mean().item()]

    model.load_state_dict(weights)
    found = measured()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=local.lr, momentum=local.momentum, weight_decay=local.weight_decay
    )
    for _ in range(2):
        order = torch.from_numpy(stream.permutation(trained))
        for batch in order.split(local.batch_size):
            optimizer.zero_grad()
            functional.cross_entropy(model.train()(images[batch]), labels[batch]).backward()
            optimizer.step()
    return found + measured()


@pytest.mark.parametrize(
    ("settings", "tolerance"),
    [({}, 1e-5), ({"model": "resnet20", "rounds": 1, "data__max_examples": 80}, 1e-2)],
)
def test_fine_tuning_is_plain_local_training(run, settings, tolerance):
    folder = run(strategy="fedpnu", partition="dirichlet", **ALL_CLIENTS, **settings)
    config = read(str(folder / "config.yaml"), {})
    federation = Federation(config)
    data, local = federation.train, federation.client_of(0)
    images = (data.images.float() - data.mean[0] * 255) / (data.std[0] * 255)
    weights = load_tensors(folder / "model.safetensors")
    told = pd.read_csv(folder / "clients.csv").set_index("partition")
    told = told[told["round"] == config.rounds]
    assert list(told.index) == [0, 1, 2, 3]
    for partition, row in told.iterrows():
        trained, kept = (f(4)[partition] for f in (federation.shards, federation.holdouts))
        assert row["examples"] == len(kept)
        stream = rng(0, "finetune", config.rounds, partition)
        module = federation.network.module
        expected = by_hand(module, weights, images, data.labels, trained, kept, local, stream)
        found = row[["loss", "accuracy", "tuned_loss", "tuned_accuracy"]]
        assert list(found) == pytest.approx(expected, rel=tolerance)


def test_evaluation_by_clients_leaves_the_model_alone(run):
    folders = [
        run(),
        run(evaluation__client_fraction=0.5),
        run(evaluation__client_fraction=1, evaluation__finetune_epochs=3),
        run(evaluation__holdout=0.3),
        run(**ALL_CLIENTS),
    ]
    models = [load_file(folder / "model.safetensors") for folder in folders]
    same = [all(np.array_equal(m[k], models[0][k]) for k in m) for m in models]
    assert same == [True, True, True, False, False]
    assert all(np.array_equal(models[3][k], models[4][k]) for k in models[3])
    assert not (folders[0] / "clients.csv").exists()
    assert not (folders[3] / "clients.csv").exists()


def test_some_train_and_others_evaluate(run):
    """Client evaluation and partial participation are drawn apart; the table adds up."""
    folder = run(
        rounds=5,
        num_clients=20,
        clients_per_round=3,
        **ALL_CLIENTS | {"evaluation__client_fraction": 0.5, "evaluation__client_every": 2},
    )
    metrics = pd.read_csv(folder / "metrics.csv").set_index("round")
    clients = pd.read_csv(folder / "clients.csv")
    assert (metrics["clients"] == 3).all()
    assert clients.groupby("round")["partition"].nunique().to_dict() == {2: 10, 4: 10, 5: 10}
    assert clients["partition"].nunique() > 10
    assert metrics["client_accuracy"].isna().tolist() == [True, False, True, False, False]
    for number, told in clients.groupby("round"):
        row = metrics.loc[number]
        for key in ("loss", "accuracy", "tuned_loss", "tuned_accuracy"):
            mean = np.average(told[key], weights=told["examples"])
            assert row[f"client_{key}"] == pytest.approx(mean)
        for key in ("accuracy", "tuned_accuracy"):
            expected = told[key].mean(), told[key].std(ddof=0), told[key].min()
            found = row[[f"client_{key}_{end}" for end in ("mean", "std", "worst10")]]
            assert list(found) == pytest.approx(expected)


def test_without_a_holdout_clients_evaluate_on_what_they_train_on(run):
    clients = pd.read_csv(run(evaluation__client_fraction=1) / "clients.csv")
    assert (clients["examples"] == 75).all()
    assert clients[["tuned_loss", "tuned_accuracy"]].isna().all().all()


def test_who_keeps_nothing_back_is_not_asked(run):
    """Of 1 example none is kept back: such a client trains, and has nothing to test on."""
    folder = run(
        rounds=1,
        num_clients=75,
        data__max_examples=100,  # so 25 clients have 2, and 50 have 1
        evaluation__client_fraction=1,
        evaluation__holdout=0.5,
    )
    federation = Federation(read(str(folder / "config.yaml"), {}))
    kept = [len(rows) for rows in federation.holdouts(75)]
    assert (kept.count(0), kept.count(1)) == (50, 25)
    assert [len(rows) for rows in federation.shards(75)] == [1] * 75
    told = pd.read_csv(folder / "clients.csv")
    assert told["partition"].tolist() == [i for i, count in enumerate(kept) if count]


def ask(grid, arrays, partitions):
    content = RecordDict({"arrays": arrays, "config": ConfigRecord({"server-round": 1})})
    asks = [Message(content, grid.get_node_ids()[p], "evaluate") for p in partitions]
    replies = grid.send_and_receive(asks)
    return {p: dict(r.content["metrics"]) for p, r in zip(partitions, replies, strict=True)}


def test_clients_do_not_see_one_anothers_fine_tuning(monkeypatch):
    """BatchNorm's statistics among them; and the model is decoded once for all clients."""
    dotted = {key.replace("__", "."): value for key, value in ALL_CLIENTS.items()}
    settings = {"model": "resnet20", "data.max_examples": 80, "partition": "iid"} | dotted
    config = read(None, settings)
    grid = InlineGrid(client_app.app, 4, config.run_config())
    initial = federation_of(config.run_config()).network.initial
    arrays = ArrayRecord({name: Array(array.numpy()) for name, array in initial.items()})
    decoded, to_vector = [], Layout.to_vector
    monkeypatch.setattr(Layout, "to_vector", lambda *a: decoded.append(1) or to_vector(*a))
    forward, backward = ask(grid, arrays, [0, 1, 2, 3]), ask(grid, arrays, [3, 2, 1, 0])
    assert forward == backward
    assert len(decoded) == 1
    assert all(own["tuned_loss"] != own["loss"] for own in forward.values())


class Still:
    """A client algorithm that has no epochs."""

    def __init__(self, lr: float = 0.1):
        self.lr = lr

    def train(self, stack): ...


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"evaluation__holdout": 0.001}, "evaluation.holdout: 0.001 of the examples"),
        ({"client": f"{__name__}:Still"}, "has no option 'epochs'"),
        ({"evaluation__client_fraction": 0}, "give evaluation.client_fraction too"),
        ({"evaluation__holdout": 1}, "evaluation.holdout: 1 is not allowed"),
        ({"evaluation__client_every": 0}, "evaluation.client_every: 0 is not allowed"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(run, tmp_path, settings, told):
    with pytest.raises(InputError, match=told):
        run(**ALL_CLIENTS | settings)
    assert not list(tmp_path.iterdir())
