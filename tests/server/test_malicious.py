"""No client ends or bends a run: each strategy, each metric and array of a reply, with extremes."""

from functools import partial

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, MetricRecord

from fedalign.client_app import app as own_app
from fedalign.errors import FedalignError
from fedalign.federation.federation import federation_of
from fedalign.messages.records import EXTRA
from fedalign.server.setup import bounds_of
from fedalign.server.strategies import strategy_of
from fedalign.settings.builtin import BUILTIN
from fedalign.settings.config import read
from tests.doubles import Stock, Watch, run_rounds

OPTIONS = {
    "qfedavg": {"strategy.client_learning_rate": 0.05, "strategy.q": 5.0},
    "krum": {"strategy.num_malicious_nodes": 0},
    "multikrum": {"strategy.num_malicious_nodes": 0, "strategy.num_nodes_to_select": 1},
    "bulyan": {"strategy.num_malicious_nodes": 0},
    "scaffold": {"client": "scaffold"},
    "feddyn": {"client": "feddyn"},
    **{
        name: {"strategy.noise_multiplier": 0.0, "strategy.clipping_norm": 1.0}
        for name in ("dp-server-fixed", "dp-client-fixed")
    },
    **{
        name: {"strategy.noise_multiplier": 0.0}
        for name in ("dp-server-adaptive", "dp-client-adaptive")
    },
}
NUMBERS = [
    None, 0, -1, 1, -5, 1 << 40, -(1 << 62), 0.0, 1e-300, -1e-9, 1e308, -1e308, 3.4e38, 1e6,
    float("nan"), float("inf"), [1.0], [],
]  # fmt: skip
LARGEST = np.finfo(np.float32).max
VALUES = [None, np.nan, np.inf, -np.inf, LARGEST, -LARGEST, 1e19, 0.0, 1e-45]


@pytest.fixture(autouse=True)
def _uncollected(monkeypatch):
    """Spare Flower's QFedAvg the garbage collections, which take most of the time."""
    monkeypatch.setattr("gc.collect", lambda *_: 0)


def federation(strategy, clients):
    settings = {
        "data.max_examples": 60, "num_clients": clients, "partition": "iid", "model.width": 2,
        "client.batch_size": 16, "rounds": 2, "strategy": strategy,
    }  # fmt: skip
    return federation_of(read(None, settings | OPTIONS.get(strategy, {})).run_config())


class Spoilt(Stock):
    """Client 0 is malicious: what it trains is spoilt on the way."""

    def __init__(self, made, spoil):
        super().__init__(own_app, made.config.num_clients)
        self.grid.run_config = made.config.run_config()
        self.spoil = spoil

    def pull_messages(self, message_ids):
        replies = super().pull_messages(message_ids)
        for reply in replies:
            if reply.metadata.src_node_id == 1000 and reply.has_content():
                self.spoil(reply.content)
        return replies


def metric(name, value, content):
    """Change a metric in the record of whatever comes; None takes it out."""
    (record,) = content.metric_records.values()
    if value is None:
        record.pop(name, None)
    else:
        record[name] = value


def array(record, name, value, content):
    """Fill an array with a value; None takes it out."""
    arrays = content.array_records.setdefault(record, ArrayRecord())
    if record not in content:
        content[record] = arrays
    if value is None:
        arrays.pop(name, None)
        return
    like = arrays[name].numpy() if name in arrays else np.zeros(3, np.float32)
    arrays[name] = Array(np.full_like(like, value))


def spoils(made):
    """Every way to spoil a reply, by name."""
    names = ["num-examples", "train_loss", "normalized_steps", "norm_bit", "mood"]
    found = {f"{n}={v}": partial(metric, n, v) for n in names for v in NUMBERS}
    model = [entry.name for entry in made.network.layout.entries][:2]
    for record, keys in (
        ("arrays", [*model, "other"]),
        (EXTRA, ["control", "other"]),
        ("b", ["b"]),
    ):
        found |= {f"{record}.{k}={v}": partial(array, record, k, v) for k in keys for v in VALUES}
    found["no metrics"] = lambda content: content.pop("metrics")
    found["no arrays"] = lambda content: content.pop("arrays")
    found["no extra"] = lambda content: content.pop(EXTRA, None)
    found["two metrics"] = lambda content: content.update({"b": MetricRecord({"loss": 1.0})})
    return found


def go(made, spoil):
    clients = range(made.config.num_clients)
    counts = {k: len(made.held(k, len(clients)).trained) for k in clients}
    watch, grid = Watch(), Spoilt(made, spoil)
    more = {"codec": made.codec, "callbacks": [watch], "rounds": 2}
    nodes = {k: 1000 + k for k in clients}
    known = {"examples": counts, "bounds": bounds_of(made)}
    return run_rounds(strategy_of(made), grid, made.network.initial, nodes, **more, **known), watch


@pytest.mark.slow
@pytest.mark.parametrize("clients", [1, 2, 3])
@pytest.mark.parametrize("strategy", BUILTIN["strategies"])
def test_a_malicious_client_ends_nothing(strategy, clients):
    if strategy == "bulyan" and clients < 3:
        pytest.skip("it makes no model of fewer than three replies, whoever sent them")
    check(strategy, clients, slice(None))


@pytest.mark.parametrize(
    "strategy", ["fedavg", "fednova", "qfedavg", "scaffold", "dp-client-adaptive"]
)
def test_a_malicious_client_is_left_out_or_harmless(strategy):
    check(strategy, 2, slice(3, None, 29))


def check(strategy, clients, which):
    made = federation(strategy, clients)
    honest, ends = norm(go(made, lambda _: None)[0]), {}
    for kind, spoil in list(spoils(made).items())[which]:
        try:
            end, watch = go(made, spoil)
        except FedalignError as error:
            ends[kind] = str(error)
            continue
        assert all(np.isfinite(a.numpy()).all() for a in end.values()), kind
        assert norm(end) < 10 * honest, kind
        for outcome in watch.rounds:
            assert outcome.metrics["clients"] == clients, kind
            assert all(np.isfinite(v) for v in outcome.metrics.values()), (kind, outcome.metrics)
    assert clients == 1 or not ends, ends
    assert all("client 0 left out: " in said for said in ends.values()), ends


def norm(model):
    return np.sqrt(sum(np.square(a.numpy().astype(float)).sum() for a in model.values()))
