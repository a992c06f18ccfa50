import numpy as np
from flwr.app import Array, ArrayRecord, Message, RecordDict
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
