"""Flower's mean of models, whose arrays become bytes late."""

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg, fedavg, strategy_utils

from fedalign.messages.late_bytes import late_bytes
from fedalign.models.mlp import mlp
from fedalign.network.arrays import LazyArray
from fedalign.network.flat import flat_of
from fedalign.network.layout import Layout
from fedalign.simulation.inline import InlineGrid


@pytest.fixture(autouse=True)
def _identity():
    InlineGrid(ClientApp(), 1)  # sets what a message needs


def replies(count):
    draw = np.random.default_rng(0)
    return [
        RecordDict(
            {
                "arrays": ArrayRecord(
                    {
                        "weight": Array(draw.normal(size=(3, 2)).astype(np.float32)),
                        "count": Array(np.asarray(draw.integers(9))),
                    }
                ),
                "metrics": MetricRecord({"num-examples": int(draw.integers(1, 9))}),
            }
        )
        for _ in range(count)
    ]


def test_flowers_mean_is_the_same_to_the_byte():
    contents = replies(3)
    before = dict(vars(strategy_utils))
    plain = strategy_utils.aggregate_arrayrecords(contents, "num-examples")
    with late_bytes():
        late = strategy_utils.aggregate_arrayrecords(contents, "num-examples")
    assert vars(strategy_utils) == before
    assert all(isinstance(array, LazyArray) for array in late.values())
    assert {name: array.data for name, array in late.items()} == {
        name: array.data for name, array in plain.items()
    }


def test_the_mean_of_a_single_model_is_that_model(monkeypatch):
    (content,) = replies(1)
    message = Message(content, 1, "train")
    before = dict(vars(fedavg))
    plain, _ = FedAvg().aggregate_train(1, [message])
    monkeypatch.setattr(strategy_utils, "aggregate_arrayrecords", None)  # must not be asked
    with late_bytes():
        kept, _ = FedAvg().aggregate_train(1, [message])
    assert vars(fedavg) == before
    assert kept["weight"].data == plain["weight"].data
    assert kept["weight"] is content["arrays"]["weight"]


def test_a_model_that_is_its_own_mean_stays_on_its_device():
    layout = Layout.of(mlp((1, 4, 4), 3))
    arrays = layout.to_record(torch.arange(layout.size).float(), {})
    content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 5})})
    with late_bytes():
        made, _ = FedAvg().aggregate_train(1, [Message(content, 1, "train")])
    assert flat_of(made, layout) is flat_of(arrays, layout) is not None


def test_without_examples_there_is_no_mean():
    (content,) = replies(1)
    content["metrics"]["num-examples"] = 0
    with late_bytes(), pytest.raises(ZeroDivisionError):
        FedAvg().aggregate_train(1, [Message(content, 1, "train")])
