"""Tensors that clients keep to themselves, through the whole app.

See also `test_second_implementation`, which computes such runs a second time.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.numpy import load_file
from torch import nn
from typer.testing import CliRunner

from clients.local import Local
from fedalign.cli import app
from fedalign.errors import InputError
from fedalign.federation.federation import Federation
from fedalign.masks.plan import MaskPlan
from fedalign.messages.codec import Codec
from fedalign.messages.private import Private
from fedalign.network.layout import Layout
from fedalign.settings.config import read

HEADER = 128  # bytes of an array before its numbers
# A network with fc1 (16 x 64 and 16) and fc2 (10 x 16 and 10).
OWN = {
    "rounds": 2, "client__private": "head", "keep_models": "last", "model__depth": 1,
    "client__batch_size": 16, "evaluation__client_fraction": 1, "evaluation__holdout": 0.3,
}  # fmt: skip


class Normed(nn.Sequential):
    """A convolution with BatchNorm, whose statistics are buffers."""

    def __init__(self, shape, classes):
        parts = [nn.Conv2d(shape[0], 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()]
        super().__init__(*parts, nn.Linear(4 * 36, classes))


@dataclass(frozen=True)
class Breaks(Local):
    """The client that has example 0 ends the second round with a head that is not finite."""

    def finish(self, training, _):
        if training.stack.server_round == 2 and 0 in training.stack.rows[0]:
            training.weights[0, training.stack.private[: training.weights.shape[1]]] = torch.nan


def kept(folder, number):
    """The global model of a round, and those of its clients."""
    files = sorted((folder / "models" / f"round-{number}").glob("client-*"))
    return load_file(folder / "model.safetensors"), [load_file(file) for file in files]


def first(folder):
    federation = Federation(read(str(folder / "config.yaml"), {}))
    return federation, {k: v.numpy() for k, v in federation.network.initial.items()}


def test_heads_stay_with_their_clients_who_test_with_them(run):
    folder = run(**OWN, simulation__stack=3, simulation__partial_aggregation=False)
    model, clients = kept(folder, 2)
    federation, start = first(folder)
    for name in ("fc2.weight", "fc2.bias"):
        assert np.array_equal(model[name], start[name])
        moved = [np.linalg.norm(own[name] - start[name]) for own in clients]
        assert min(moved) > 0.05
        assert len(set(moved)) == len(clients) == 4
    assert np.linalg.norm(model["fc1.weight"] - start["fc1.weight"]) > 0.1
    sums = np.mean([own["fc1.weight"] for own in clients], 0)  # all have as many examples
    np.testing.assert_allclose(model["fc1.weight"], sums, atol=1e-6)
    rows = pd.read_csv(folder / "clients.csv").query("round == 2").set_index("partition")
    for client, own in enumerate(clients):  # the body that was sent, and the client's own head
        test = federation.train.at(federation.held(client, 4).tested)
        hidden = np.maximum(_inputs(test) @ model["fc1.weight"].T + model["fc1.bias"], 0)
        right = (hidden @ own["fc2.weight"].T + own["fc2.bias"]).argmax(1) == test.labels.numpy()
        assert right.mean() == pytest.approx(rows.loc[client, "accuracy"])
    metrics = pd.read_csv(folder / "metrics.csv")
    assert metrics["test_accuracy"].isna().all()
    body = (16 * 64 + 16) * 4 + 4 * HEADER
    assert metrics["bytes_up"].tolist() == [4 * body] * 2


def _inputs(data):
    mean, std = (np.array(own)[:, None, None] for own in (data.mean, data.std))
    return ((data.images.numpy() / 255 - mean) / std).reshape(len(data), -1).astype(np.float32)


def test_a_stack_and_float16_do_the_same_but_for_rounding(run):
    found = [
        kept(run(**OWN | more), 2)
        for more in (
            {"simulation__stack": 1},
            {"simulation__stack": 4},
            {"simulation__stack": 4, "wire": "float16"},
        )
    ]
    for (model, clients), most in zip(found[1:], (1e-5, 2e-3), strict=True):
        for one, other in zip([model, *clients], [found[0][0], *found[0][1]], strict=True):
            assert max(float(np.abs(one[k] - other[k]).max()) for k in one) < most


def test_statistics_of_batches_can_be_private(run):
    """FedBN: the layer with its statistics; of the model nothing else is."""
    normed = {"model": f"{__name__}:Normed", "client__private": "1.*"}
    settings = {k: v for k, v in OWN.items() if not k.startswith("model")} | normed
    folder = run(**settings, simulation__stack=1)
    model, clients = kept(folder, 2)
    _, start = first(folder)
    for name in ("1.weight", "1.bias", "1.running_mean", "1.running_var"):
        assert np.array_equal(model[name], start[name])
        assert len({own[name].tobytes() for own in clients} - {start[name].tobytes()}) == 4
    for name in ("0.weight", "4.weight"):
        assert not np.array_equal(model[name], start[name])
    sent = (36 + 4 + 10 * 144 + 10) * 4 + 8 * HEADER  # and one counter, of 8 bytes
    assert pd.read_csv(folder / "metrics.csv")["bytes_up"].tolist() == [4 * (sent + 136)] * 2


NOISY = {"strategy__noise_multiplier": 0.1, "strategy__clipping_norm": 1.0}
Q = {"strategy": "qfedavg", "strategy__q": 0.1, "strategy__client_learning_rate": 0.05}


@pytest.mark.parametrize(
    "strategy",
    [
        {"strategy": "dp-client-fixed"} | NOISY,
        {"strategy": "fedadam"},
        {"strategy": "krum"},
        pytest.param(Q, marks=pytest.mark.slow),
        pytest.param({"strategy": "fedmedian"}, marks=pytest.mark.slow),
        pytest.param({"strategy": "dp-server-fixed"} | NOISY, marks=pytest.mark.slow),
        pytest.param({"strategy": "fused", "strategy__fusion": "ties"}, marks=pytest.mark.slow),
        pytest.param({"strategy": "fedbabu"}, marks=pytest.mark.slow),
    ],
    ids=lambda strategy: strategy["strategy"],
)
def test_no_strategy_moves_them_on_the_server(run, strategy):
    folder = run(**OWN | {"keep_models": []} | strategy)
    model, _ = kept(folder, 2)
    _, start = first(folder)
    assert np.array_equal(model["fc2.weight"], start["fc2.weight"])
    assert not np.array_equal(model["fc1.weight"], start["fc1.weight"])


def test_all_can_be_private_and_then_nothing_travels(run):
    folder = run(**OWN | Q | {"client__private": "*"})
    model, clients = kept(folder, 2)
    _, start = first(folder)
    assert all(np.array_equal(model[name], start[name]) for name in start)
    assert len({own["fc1.weight"].tobytes() for own in clients}) == 4
    assert pd.read_csv(folder / "metrics.csv")["bytes_up"].tolist() == [4 * 4 * HEADER] * 2


def test_clients_start_apart_where_each_has_its_own_start(run):
    """A client that is new in a later round starts from its own private weights, too."""
    folder = run(**OWN | {"init": "own", "clients_per_round": 2, "client__lr": 1e-9})
    federation, _ = first(folder)
    own = [federation.module(client).fc2.weight.detach().numpy() for client in range(4)]
    for file in (folder / "models" / "round-2").glob("client-*"):
        number = int(file.stem.removeprefix("client-"))
        np.testing.assert_allclose(load_file(file)["fc2.weight"], own[number], atol=1e-6)


def test_what_is_not_finite_is_not_kept(run):
    folder = run(
        **OWN | {"client": f"{__name__}:Breaks", "client__private": "head", "rounds": 3},
        simulation__stack=1,
    )
    metrics = pd.read_csv(folder / "metrics.csv")
    assert metrics["dropped"].tolist() == [0, 1, 0]
    assert np.isfinite(metrics["client_loss"]).all()


def test_the_server_takes_no_private_values_that_it_is_sent():
    torch.manual_seed(0)
    layout = Layout.of(module := Normed((1, 8, 8), 10))
    codec = Codec(layout, private=Private.of("head 1.running*", layout))
    sent = layout.initial_record(module)
    whole = layout.to_record(torch.ones(layout.size), layout.counters_of(sent))
    found = codec.unpack(whole, sent, codec.mask(MaskPlan()))
    for name, array in found.items():
        same = name in codec.private.names or name in layout.counters
        assert np.array_equal(array.numpy(), (sent if same else whole)[name].numpy())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"client.private": "fc9*"}, r"client.private: 'fc9\*' is no tensor of the model \(head,"),
        ({"strategy": "matched"}, "client.private: 'head' would keep weights in an order of"),
        ({"keep_best": "test_accuracy"}, "'test_accuracy' is not measured, since"),
        (
            {"strategy": "fused", "strategy.fusion": "greedy"},
            "'greedy' runs the clients' models, of which the server",
        ),
        (
            {"strategy": "fedpfn", "strategy.fixed_value": "zero"},
            "strategy.fixed_value: 'zero' is sent with the model",
        ),
    ],
)
def test_what_cannot_work_is_refused(run, settings, message):
    dotted = {"client__private": "head"} | {k.replace(".", "__"): v for k, v in settings.items()}
    with pytest.raises(InputError, match=message):
        run(**dotted)


def test_the_servers_model_is_not_fused_and_those_of_clients_are(run):
    folder = run(**OWN)
    clients = sorted((folder / "models" / "round-2").glob("client-*"))[:2]
    out = ["--out", str(folder.parent / "fused.safetensors")]
    for files, code in ((clients, 0), ([clients[0], folder / "model.safetensors"], 2)):
        words = ["fuse", *map(str, files), *out, "evaluation.alphas=3"]
        result = CliRunner().invoke(app, words)
        assert result.exit_code == code, result.output
    assert "model.safetensors: is the server's model, of which head (client.private)" in (
        result.stderr
    )
