import pickle

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp.strategy import FedAvg

from fedalign.messages.copies import for_nodes, node_of, private_copy
from fedalign.simulation.inline import InlineGrid


def content():
    return RecordDict({"arrays": ArrayRecord({"w": Array(np.zeros(3))})})


def test_copy_shares_the_bytes_of_arrays():
    InlineGrid(ClientApp(), 1)  # Flower wants to know whose message it is
    message = Message(content(), 7, "train")
    twin = private_copy(message)
    ours, theirs = (m.content["arrays"]["w"] for m in (message, twin))
    assert ours is not theirs
    assert ours.data is theirs.data


def test_changes_to_a_copy_do_not_affect_the_original():
    InlineGrid(ClientApp(), 1)
    sent = content()
    sent["config"], sent["m"] = ConfigRecord({"lr": 0.1, "list": [1]}), MetricRecord({"n": [2.0]})
    message, flowers = Message(sent, 7, "train"), pickle.dumps(sent)
    twin = private_copy(message)
    assert twin.content == sent
    assert vars(twin.metadata) == vars(message.metadata)
    twin.metadata.dst_node_id = 8
    twin.content["arrays"]["w"].data = b""
    twin.content["arrays"]["v"] = Array(np.ones(2))
    twin.content["config"]["list"].append(2)
    twin.content["m"]["n"][0] = 3.0
    del twin.content["config"]["lr"]
    twin.content["new"] = MetricRecord()
    with pytest.raises(TypeError):  # it is checked like any record of Flower's
        twin.content["m"]["text"] = "no number"
    assert message.metadata.dst_node_id == 7
    assert pickle.dumps(sent) == flowers


def test_messages_for_nodes_are_those_that_flower_makes():
    InlineGrid(ClientApp(), 1)
    shared = content()
    for nodes in ([], [5], [5, 9, 2**60]):
        flowers = FedAvg()._construct_messages(shared, nodes, "train")
        ours = for_nodes(shared, nodes, "train")
        assert [node_of(message) for message in ours] == nodes
        for one, other in zip(flowers, ours, strict=True):
            assert one.content is other.content
            alike = [dict(vars(m.metadata), _created_at=0) for m in (one, other)]
            assert alike[0] == alike[1]
    ours[0].metadata.dst_node_id = 1  # each has its own
    assert [node_of(message) for message in ours] == [1, 9, 2**60]
