"""Whole runs on the embedded data set, in this process."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from flwr.app import Array, ArrayRecord
from safetensors.numpy import load_file
from torch.nn import functional

from fedalign.errors import InputError
from fedalign.federation.federation import Federation
from fedalign.masks.phases import update_mask
from fedalign.masks.plan import MaskPlan
from fedalign.rng import rng
from fedalign.server.rounds import RoundFailedError
from fedalign.settings.config import read


def same(one, other):
    a, b = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    return list(a) == list(b) and all(np.array_equal(a[k], b[k]) for k in a)


def load_numpy(path):
    return {name: Array(array) for name, array in load_file(path).items()}


def plain_fedavg(folder):
    """Federated averaging as one would write it by hand; the same batches, nothing else shared."""
    config = read(str(folder / "config.yaml"), {})
    federation = Federation(config)
    data, shards = federation.train, federation.shards(config.num_clients)
    images = (data.images.float() - data.mean[0] * 255) / (data.std[0] * 255)
    model = federation.network.module
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    local = config.client.build()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for server_round in range(1, config.rounds + 1):
        averaged = {k: torch.zeros_like(v) for k, v in weights.items()}
        for client, rows in enumerate(shards):
            model.load_state_dict(weights)
            model.train()
            optimizer = torch.optim.SGD(
                model.parameters(),
                lr=local.lr,
                momentum=local.momentum,
                weight_decay=local.weight_decay,
            )
            stream = rng(config.seed, "batches", server_round, client)
            for _ in range(local.epochs):
                order = torch.from_numpy(stream.permutation(rows))
                for batch in order.split(local.batch_size):
                    optimizer.zero_grad()
                    functional.cross_entropy(model(images[batch]), data.labels[batch]).backward()
                    optimizer.step()
            share = len(rows) / len(data)
            for key, value in model.state_dict().items():
                averaged[key] += value * share
        weights = averaged
    torch.set_num_threads(threads)
    return weights


@pytest.mark.parametrize("epochs", [1, 2])
def test_fedavg_is_plain_fedavg_to_the_bit(run, epochs):
    folder = run(strategy="fedavg", client__epochs=epochs, partition="dirichlet")
    expected = plain_fedavg(folder)
    model = load_file(folder / "model.safetensors")
    assert set(model) == set(expected)
    for name, value in expected.items():
        assert np.array_equal(model[name], value.numpy()), name


def test_the_run_folder_tells_all(run):
    folder = run(strategy="fedpfn", name="told", seed=5)
    assert folder.name.startswith("told-")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    told = {"name": "fedpfn", "base": {"name": "fedavg"}, "fixed_ratio": 0.4, "refresh": 1}
    assert config["strategy"].items() >= told.items()
    assert config["strategy"]["schedule"] == {"name": "hold"}
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["status"] == "finished"
    assert manifest["seed"] == 5
    assert "UCI handwritten digits" in manifest["data"]["source"]
    assert {"flwr", "torch", "numpy", "python", "fedalign"} <= set(manifest["versions"])
    metrics = pd.read_csv(folder / "metrics.csv")
    assert metrics["round"].tolist() == [1, 2, 3]
    assert not metrics.isna().any().any()
    assert (metrics["clients"] == 4).all()
    landscape = pd.read_csv(folder / "landscape.csv")
    assert len(landscape) == 3 * (1 + 2) * 3  # rounds, paths, alphas
    assert landscape["accuracy"].between(0, 1).all()


def test_the_same_settings_give_the_same_bits(run, tmp_path):
    first = run(strategy="fedpnu")
    kept = first.rename(tmp_path / "kept")
    again = run(strategy="fedpnu")
    assert same(kept, again)
    assert not same(again, run(strategy="fedpnu", seed=1))


@pytest.mark.parametrize("strategy", ["fedpfn", "fedpnu"])
def test_fixed_ratio_zero_is_fedavg_to_the_bit(run, strategy):
    assert same(run(strategy=strategy, strategy__fixed_ratio=0), run(strategy="fedavg"))


def test_fixed_ratio_one_changes_nothing(run):
    folder = run(strategy="fedpfn", strategy__fixed_ratio=1, client__optimizer="adam")
    initial = Federation(read(str(folder / "config.yaml"), {})).network.initial
    for name, value in load_file(folder / "model.safetensors").items():
        assert np.array_equal(value, initial[name].numpy())


@pytest.mark.parametrize("base", ["fedavg", "fedavgm", "fedadam", "fedyogi", "fedmedian"])
def test_fixed_weights_keep_their_bits_under_any_base(run, base):
    """One mask for the run (TNA-PFN): after three rounds its weights are those of the start."""
    folder = run(strategy="fedpfn", strategy__refresh=0, strategy__base=base, num_clients=10)
    network = Federation(read(str(folder / "config.yaml"), {})).network
    model, start = load_file(folder / "model.safetensors"), network.initial
    trains = update_mask(MaskPlan(0, 0, 0.4), network.layout)
    for entry in network.layout.parameters:
        free = entry.view(trains).numpy()
        before, after = start[entry.name].numpy(), model[entry.name]
        assert after.dtype == np.float32
        assert np.array_equal(before[~free], after[~free])
        assert (before[free] != after[free]).mean() > 0.5


def test_masks_are_fresh_each_round(run):
    one, three = run(strategy="fedpfn", rounds=1), run(strategy="fedpfn", rounds=3)
    initial = Federation(read(str(one / "config.yaml"), {})).network.initial
    name = next(key for key in initial if key.endswith("weight"))
    still = [
        (load_file(folder / "model.safetensors")[name] == initial[name].numpy()).mean()
        for folder in (one, three)
    ]
    assert still[0] == pytest.approx(0.4, abs=0.05)
    assert still[1] == pytest.approx(0.4**3, abs=0.05)


def test_partial_participation_and_client_evaluation(run):
    folder = run(clients_per_round=2, evaluation__client_fraction=0.5)
    metrics = pd.read_csv(folder / "metrics.csv")
    assert (metrics["clients"] == 2).all()
    assert metrics["client_accuracy"].between(0, 1).all()


@pytest.mark.parametrize("fuse", [False, True])
def test_what_is_measured_now_and_then_is_an_empty_cell_otherwise(run, fuse):
    folder = run(
        evaluation__every=2, evaluation__fusion_gap=True, simulation__partial_aggregation=fuse
    )
    metrics = pd.read_csv(folder / "metrics.csv", index_col="round")
    for column in ("fusion_gap", "fusion_gap_accuracy", "client_loss_barrier"):
        assert metrics[column].isna().tolist() == [True, False, False]  # 2, and the last one
    assert metrics["test_accuracy"].notna().all()
    assert set(pd.read_csv(folder / "landscape.csv")["round"]) == {2, 3}


def test_integer_buffers_survive_resnet(run):
    folder = run(
        model="resnet20", rounds=1, num_clients=2, strategy="fedpfn", data__max_examples=64
    )
    counters = [v for k, v in load_file(folder / "model.safetensors").items() if "tracked" in k]
    assert counters
    assert all(value.dtype == np.int64 for value in counters)


def test_a_round_without_replies_is_an_error(run, monkeypatch, tmp_path):
    def fall(*_, **__):
        raise ZeroDivisionError("a bug in the client")

    monkeypatch.setattr("clients.local.Local.train", fall)
    with pytest.raises(
        RoundFailedError, match=r"round 1: 4 of 4 clients failed.*a bug in the client"
    ):
        run()
    (manifest,) = tmp_path.glob("*/manifest.json")
    assert json.loads(manifest.read_text())["status"].startswith("failed: round 1")


@pytest.mark.parametrize(
    "more",
    [
        {"strategy": "fedpfn"},
        {"strategy": "fedpfn", "strategy__per_client": True, "strategy__sampling": "exact"},
        {"client": "moon"},
    ],
)
def test_a_failure_in_a_stack_changes_nothing(run, monkeypatch, tmp_path, more):
    """All are trained one by one then, as if nobody had been trained before.

    Replies that are packed by masks that differ stay apart.
    """
    from clients.local import Local

    train, calls = Local.train, []

    def fall(self, stack):
        calls.append(len(stack.block))
        if calls == [2, 2]:
            raise ZeroDivisionError("somebody in the second stack")
        return train(self, stack)

    # Groups of two stacks.
    settings = {"simulation__stack": 2, "num_clients": 4, "rounds": 1, **more}
    monkeypatch.setattr("fedalign.server.exchange.group_size", lambda *_: 4)
    expected = load_file(run(**settings).rename(tmp_path / "kept") / "model.safetensors")
    monkeypatch.setattr(Local, "train", fall)
    for name, value in load_file(run(**settings) / "model.safetensors").items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=1e-5)
    assert calls == [2, 2, 1, 1, 1, 1]


def test_one_failed_client_is_left_out(run, monkeypatch, caplog):
    from clients.local import Local

    train, calls = Local.train, []

    def fall_once(self, *rest):
        calls.append(1)
        if len(calls) == 2:
            raise ZeroDivisionError("once")
        return train(self, *rest)

    monkeypatch.setattr(Local, "train", fall_once)
    metrics = pd.read_csv(run() / "metrics.csv")
    assert metrics["clients"].tolist() == [3, 4, 4]
    assert "1 of 4 clients failed" in caplog.text


def test_bad_input_leaves_a_finished_run_alone(run, tmp_path):
    folder = run()
    with pytest.raises(InputError, match="num_clients"):
        run(num_clients=301)
    assert (folder / "model.safetensors").is_file()
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("freeze", ["exact", "grad_only"])
def test_own_starts_share_the_anchors_and_nothing_else(run, freeze):
    """At next to no learning rate the fused model is the mean of what the clients started from."""
    folder = run(
        rounds=1, init="own", client__lr=1e-12, num_clients=2,
        strategy="fedpfn", strategy__freeze=freeze,
    )  # fmt: skip
    federation = Federation(read(str(folder / "config.yaml"), {}))
    layout = federation.network.layout
    starts = [federation.own_start(client) for client in range(2)]
    fused = layout.to_vector(ArrayRecord(load_numpy(folder / "model.safetensors")))
    shared = layout.to_vector(federation.network.initial)
    mask = update_mask(MaskPlan(0, 0, 0.4), layout)
    assert 0.3 < (~mask).float().mean() < 0.5
    torch.testing.assert_close(fused[~mask], shared[~mask])
    torch.testing.assert_close(fused[mask], ((starts[0] + starts[1]) / 2)[mask])
    assert not torch.allclose(starts[0][mask], starts[1][mask])


def test_own_starts_are_for_the_first_round(run):
    settings = {"client__lr": 1e-12, "num_clients": 2, "strategy": "fedpfn", "init": "own"}
    one, two = (run(rounds=rounds, **settings) for rounds in (1, 2))
    ends = [load_file(folder / "model.safetensors") for folder in (one, two)]
    assert all(np.allclose(ends[0][name], ends[1][name], atol=1e-7) for name in ends[0])
