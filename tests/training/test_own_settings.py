"""Clients with options of their own train as if all clients had them, whoever is beside them."""

import csv
import json

import pandas as pd
import pytest
import torch
from flwr.app import ConfigRecord

from clients.local import Local
from fedalign.client_app import app
from fedalign.federation.federation import Federation, federation_of
from fedalign.messages.groups import GroupRequest
from fedalign.messages.partial_sums import take_mark
from fedalign.report.page.page import render
from fedalign.report.reading import read_runs
from fedalign.server.sampling import sample
from fedalign.server.setup import bounds_of, steps_of
from fedalign.server.strategies import strategy_of
from fedalign.settings.config import read
from fedalign.simulation.inline import InlineGrid

SETTINGS = {
    "num_clients": 6,
    "data.max_examples": 240,
    "partition": "dirichlet",
    "partition.min_size": 5,
    "model.width": 8,
    "client.batch_size": 8,
}
OWN = {
    "lr": [0.1, 0.05, 0.1, 0.02, 0.05, 0.1],
    "epochs": [1, 2, 1, 1, 2, 1],
    "optimizer": ["sgd", "sgd", "sgd", "adam", "sgd", "sgd"],
    "round_examples": [20, 12, None, 20, 12, 15],
    "weight_decay": [0.0, 0.01, 0.0, 0.0, 0.1, 0.2],
}


def trained(request, group, **settings):
    """The layout, and by client the replies of round 2."""
    config = read(None, SETTINGS | settings)
    federation = federation_of(config.run_config())
    grid = InlineGrid(app, 6, config.run_config())
    clients = sample(grid.partitions(), None, 0, "sample", 2)
    strategy, start = strategy_of(federation), federation.network.initial
    messages = strategy.configure_train(2, start, ConfigRecord(), clients.grid(grid))
    came = grid.exchange(clients.ordered(messages), request, group, None)
    assert not any(reply.has_error() for reply in came.replies)
    return federation.network.layout, came.replies


def models_of(layout, replies):
    return torch.stack([layout.to_vector(reply.content["arrays"]) for reply in replies])


@pytest.fixture(scope="module")
def mixed():
    return trained(GroupRequest(), 1, per_client=OWN)


@pytest.mark.parametrize("client", [1, 3, 5])
def test_a_client_is_what_it_is_where_all_have_its_options(mixed, client):
    layout, replies = mixed
    settings = {f"client.{key}": values[client] for key, values in OWN.items()}
    _, alike = trained(GroupRequest(), 1, **settings)
    ours, theirs = replies[client], alike[client]
    assert torch.equal(models_of(layout, [ours]), models_of(layout, [theirs]))
    assert ours.content["metrics"] == theirs.content["metrics"]


@pytest.mark.parametrize("group", [6, 4])
def test_a_stack_and_a_sum_are_the_clients_one_by_one(mixed, group, monkeypatch):
    (layout, alone), seen, train = mixed, [], Local.train
    monkeypatch.setattr(Local, "train", lambda *own: seen.append(own[1]) or train(*own))
    _, stacked = trained(GroupRequest(group), group, per_client=OWN)
    widths = sorted(len(stack.block) for stack in seen)
    assert widths == ([1, 5] if group == 6 else [1, 2, 3])  # Adam trains apart
    models = models_of(layout, alone)
    torch.testing.assert_close(models_of(layout, stacked), models, rtol=1e-4, atol=1e-5)
    counts = [reply.content["metrics"]["num-examples"] for reply in stacked]
    assert [count for k, count in enumerate(counts) if k != 2] == [20, 12, 20, 12, 15]
    for one, other in zip(alone, stacked, strict=True):
        assert one.content["metrics"] == pytest.approx(dict(other.content["metrics"]), rel=1e-4)
    _, (summed,) = trained(GroupRequest(6, partial_sums=True), 6, per_client=OWN)
    take_mark(summed)
    weights = torch.tensor(counts, dtype=torch.float64)
    mean = (weights @ models.double() / weights.sum()).float()
    torch.testing.assert_close(models_of(layout, [summed])[0], mean, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("client", ["scaffold", "fedprox", "moon"])
def test_other_algorithms_too(client):
    given = {"lr": OWN["lr"], "weight_decay": OWN["weight_decay"]}
    given |= {"mu": [0.1, 0.1, 0.5, 0.1, 0.5, 0.1]} if client != "scaffold" else {}
    strategy = "scaffold" if client == "scaffold" else "fedavg"
    settings = {"client": client, "strategy": strategy, "per_client": given}
    layout, alone = trained(GroupRequest(), 1, **settings)
    _, stacked = trained(GroupRequest(6), 6, **settings)
    both = models_of(layout, alone), models_of(layout, stacked)
    torch.testing.assert_close(*both, rtol=1e-4, atol=1e-5)
    for one, other in zip(alone, stacked, strict=True):
        assert one.content["metrics"] == pytest.approx(dict(other.content["metrics"]), rel=1e-4)


def test_what_the_server_expects_of_a_client_follows_its_options(mixed):
    federation = Federation(read(None, SETTINGS | {"per_client": OWN}))
    steps, bounds = steps_of(federation), bounds_of(federation)
    assert [steps(k, federation.num_trained(k, 6)) for k in (0, 1, 3, 5)] == [3, 4, 3, 2]
    assert app.sizes(federation.config.run_config(), 6)[:2] == [20, 24]
    for k, reply in enumerate(mixed[1]):
        low, high = bounds(k, federation.num_trained(k, 6))["normalized_steps"]
        assert low <= reply.content["metrics"]["normalized_steps"] <= high
    assert bounds(3, 20)["normalized_steps"] == (1, 3)  # Adam has no momentum
    assert bounds(1, 12)["normalized_steps"] == (1, pytest.approx(40))  # 2 * 2 / (1 - 0.9)


def test_a_soup_of_a_run_whose_clients_share_all_data(run):
    folder = run(
        rounds=2,
        partition="replicated",
        strategy="fused",
        strategy__fusion="greedy",
        evaluation__server_share=0.2,
        client__round_examples=100,
        per_client={"lr": {"log_uniform": [1e-3, 0.1]}, "optimizer": {"choice": ["sgd", "adam"]}},
    )
    config, (read_back,) = read(str(folder / "config.yaml"), {}), read_runs([folder])
    own = [config.client_of(k).options for k in range(4)]
    with (folder / "client_settings.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["lr"]) for row in rows] == [options["lr"] for options in own]
    assert list(read_back.client_settings["optimizer"]) == [o["optimizer"] for o in own]
    shares = json.loads((folder / "partition.json").read_text())
    assert {len(share) for share in shares} == {240}
    assert set(pd.read_csv(folder / "sampled.csv")["examples"]) == {100}
    assert len(read_back.metrics) == 2
    assert f'<td data-key="{own[1]["lr"]}">' in render([read_back])
    assert "per client</th>" in read_back._repr_html_()
