"""A client whose BatchNorm statistics cannot be used is left out of a sum as it is on its own."""

import math

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp
from torch import nn

from fedalign.masks.plan import MaskPlan
from fedalign.messages.codec import Codec
from fedalign.messages.decoder import ReplyDecoder
from fedalign.messages.groups import GroupRequest
from fedalign.messages.partial_sums import take_mark
from fedalign.network.layout import Layout
from fedalign.simulation.inline import InlineGrid
from fedalign.training.replies import Sender, each, mean
from fedalign.training.trainer import Client, Models


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("1.running_mean", value) for value in (math.nan, -math.inf, 2e6, -2e6, 9e5)],
        *[("1.running_var", value) for value in (math.nan, math.inf, -0.5, 1e30)],
        ("0.weight", math.nan),
    ],
)
@pytest.mark.parametrize("limit", [None, 1e-3])
def test_statistics_are_checked_where_models_are_summed(name, value, limit):
    module = nn.Sequential(nn.Linear(4, 20), nn.BatchNorm1d(20), nn.Linear(20, 3))
    layout = Layout.of(module)
    (entry,) = (entry for entry in layout.entries if entry.name == name)
    InlineGrid(ClientApp(), 3)  # gives this process the identity that Flower's messages carry
    content = RecordDict({"arrays": layout.initial_record(module)})
    content["config"] = ConfigRecord({"server-round": 1})
    messages = [Message(content, node, "train") for node in (1000, 1001, 1002)]
    for number, message in enumerate(messages):
        message.metadata.__dict__["_message_id"] = str(number)
    start = layout.to_vector(content["arrays"])
    counters = layout.counters_of(content["arrays"])
    sender = Sender(Codec(layout), start, counters, clipped=False)
    block = start.repeat(3, 1)
    entry.view(block)[1].flatten()[-1] = value
    clients = [Client(k, k, 3, np.arange(5), MaskPlan(), ()) for k in range(3)]
    models = Models(clients, block, {"train_loss": [1.0] * 3}, {})

    (reply, *_) = each(sender, messages, [models]).replies[1:]
    expected = ReplyDecoder(messages, sender.codec, limit).flaw(reply, 1)
    request = GroupRequest(3, True, max_update_norm=limit)
    (total,) = mean(sender, MaskPlan(), messages, [models], request).replies
    assert take_mark(total).left_out == ({1001: expected} if expected else {})
    assert (expected is None) == (value == 9e5)
    found = layout.to_vector(total.content["arrays"])
    rows = block if expected is None else block[[0, 2]]
    torch.testing.assert_close(found, rows.double().mean(0).float())
