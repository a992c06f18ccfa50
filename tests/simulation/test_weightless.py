"""Clients that all reply a weight of 0, which Flower divides by."""

import numpy as np
import pytest
from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from fedalign.simulation.inline import InlineGrid
from fedalign.simulation.weightless import weightless

clients = ClientApp()


@clients.train()
def train(message, context):  # noqa: ARG001
    content = {"arrays": message.content["arrays"], "metrics": MetricRecord({"num-examples": 0})}
    return Message(RecordDict(content), reply_to=message)


def test_round_metric_and_nodes_are_named():
    grid, model = InlineGrid(clients, 4), ArrayRecord([np.zeros(3, np.float32)])
    with pytest.raises(ZeroDivisionError) as found:
        FedAvg(fraction_evaluate=0.0).start(grid, model, num_rounds=1)
    line = weightless(found.value)
    assert line.startswith("round 1: 'num-examples' is 0 in all 4 replies, which Flower's strategy")
    assert line.count("100") == 3
    assert line.endswith(", …)")


@pytest.mark.parametrize("error", [None, ValueError("another"), ZeroDivisionError("elsewhere")])
def test_other_errors_are_left_alone(error):
    assert weightless(error) is None
