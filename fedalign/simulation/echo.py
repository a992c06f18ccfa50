"""A ClientApp that returns the model it receives, to measure the cost of messages."""

from __future__ import annotations

import time
from statistics import median

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedalign.simulation.grid import LocalGrid

client = ClientApp()


@client.train()
def echo(message: Message, _: Context) -> Message:
    """Return the received model."""
    content = {"arrays": message.content["arrays"], "metrics": MetricRecord({"num-examples": 1})}
    return Message(RecordDict(content), reply_to=message)


def message_seconds(grid: LocalGrid, parameters: int, clients: int) -> float:
    """Return the seconds per client for a message and its reply: the median of five rounds."""
    arrays = ArrayRecord({"w": Array(np.zeros(parameters, np.float32))})
    nodes, seconds = grid.get_node_ids()[:clients], []
    for _ in range(7):
        content = RecordDict({"arrays": arrays, "config": ConfigRecord({})})
        began = time.perf_counter()
        grid.send_and_receive([Message(content, node, "train") for node in nodes])
        seconds.append(time.perf_counter() - began)
    return median(seconds[2:]) / clients
