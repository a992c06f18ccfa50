"""A reply counts for the message that it answers: Flower's own grid over nodes that lie."""

from types import SimpleNamespace

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Error, Message, MetricRecord, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import PullObjectResponse
from flwr.proto.runtime_pb2 import PullAppMessagesResponse, PushAppMessagesResponse
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.superlink.grid import HttpGrid

from fedalign.server.delivery import send_and_receive
from fedalign.simulation.inline import InlineGrid


class Link:
    """The runtime API of a SuperLink: it checks the envelope of a reply, and not what is inside.

    Args:
        answer: makes the reply of a node to a message.
        spoil: changes the bytes of the objects of a reply, by object id.
    """

    def __init__(self, answer, spoil=lambda *_: None):
        self.answer, self.spoil = answer, spoil
        self.asked, self.contents, self.confirmed, self.read = {}, {}, [], 0

    def PushMessages(self, request):  # noqa: N802
        ids = [message.metadata.message_id for message in request.messages_list]
        return PushAppMessagesResponse(message_ids=ids, session_id="s")

    def PushObject(self, _request):  # noqa: N802
        raise AssertionError("nothing is to be pushed")

    def PullMessages(self, request):  # noqa: N802
        messages, trees = [], []
        for key in request.message_ids:
            asked = self.asked[key]
            reply = self.answer(asked)
            contents = {k: v.deflate() for k, v in get_all_nested_objects(reply).items()}
            envelope = message_to_proto(remove_content_from_message(reply))
            envelope.metadata.message_id = reply.object_id
            self.spoil(asked.metadata.dst_node_id, contents)
            self.contents |= contents
            messages.append(envelope)
            trees.append(get_object_tree(reply))
        return PullAppMessagesResponse(messages_list=messages, message_object_trees=trees)

    def PullObject(self, request):  # noqa: N802
        content = self.contents[request.object_id]
        self.read += len(content)
        return PullObjectResponse(object_found=True, object_available=True, object_content=content)

    def ConfirmMessageReceived(self, request):  # noqa: N802
        self.confirmed.append(request.message_object_id)


def exchange(answer, spoil=lambda *_: None, nodes=(7, 8, 9)):
    """What three nodes answer over Flower's grid, and the link."""
    InlineGrid(None, 1)  # messages belong to its run
    grid, link = HttpGrid(token="t"), Link(answer, spoil)
    grid._client, grid._run = link, SimpleNamespace(run_id=1)
    type(grid).run = property(lambda self: self._run)
    record = RecordDict({"arrays": ArrayRecord({"w": Array(np.zeros(10, np.float32))})})
    messages = [Message(record, node, "train") for node in nodes]
    push = grid.push_messages

    def pushed(batch):
        ids = push(batch)
        link.asked = {message.metadata.message_id: message for message in batch}
        return ids

    grid.push_messages = pushed
    found = {a.node: a for a in send_and_receive(grid, messages, 5)}
    assert grid._client is link
    return found, link


def honest(message, **forged):
    """A reply with the number of its node; some of its metadata are forged."""
    record = MetricRecord({"node": message.metadata.dst_node_id})
    reply = Message(RecordDict({"metrics": record}), reply_to=message)
    reply.metadata.__dict__.update(forged)
    return reply


def forging(**forged):
    return lambda m: honest(m, **(forged if m.metadata.dst_node_id == 8 else {}))


def failing(message):
    if message.metadata.dst_node_id != 8:
        return honest(message)
    reply = Message(Error(1, "out of memory"), reply_to=message)
    reply.metadata.__dict__.update(_src_node_id=9, _reply_to_message_id="forged")
    return reply


def cut(node, contents):
    for key in contents if node == 8 else ():
        contents[key] = contents[key][: len(contents[key]) // 2]


def garbled(node, contents):
    for key in contents if node == 8 else ():
        contents[key] = contents[key][:-3] + b"\xff\xfe\xfd"


def empty(node, contents):
    for key in contents if node == 8 else ():
        contents[key] = b""


LIES = {
    "sender": (forging(_src_node_id=9), None, "its reply says that node 9 sent it, and node 8 w"),
    "stranger": (forging(_src_node_id=5), None, "its reply says that node 5 sent it"),
    "answered": (forging(_reply_to_message_id="x"), None, "its reply says that it answers another"),
    "cut": (honest, cut, "its reply cannot be read: "),
    "garbled": (honest, garbled, "its reply cannot be read: "),
    "empty": (honest, empty, "its reply cannot be read: "),
}


@pytest.mark.parametrize("kind", LIES)
def test_a_reply_that_lies_is_left_out_and_the_others_count(kind):
    answer, spoil, said = LIES[kind]
    found, _ = exchange(answer, *([spoil] if spoil else []))
    assert found[8].reply is None
    assert found[8].flaw.startswith(said)
    for node in (7, 9):
        assert found[node].reply.content["metrics"]["node"] == node


def test_an_error_counts_for_the_node_that_was_asked():
    found, _ = exchange(failing)
    assert found[8].reply.error.reason == "out of memory"
    assert found[9].reply.has_content()


def test_what_is_too_large_is_not_read_to_its_end():
    large = np.zeros(40 << 18, np.float32)  # 40 MiB, in parts of 5 MiB

    def answer(message):
        reply = honest(message)
        if message.metadata.dst_node_id == 8:
            reply.content["arrays"] = ArrayRecord({"w": Array(large)})
        return reply

    found, link = exchange(answer)
    assert found[8].flaw == "its reply is larger than 1048912 bytes, twice what it was sent"
    assert link.read < 20 << 20  # two parts, beside those that were on their way
    assert len(link.confirmed) == 3  # so the SuperLink forgets what was not read, too
    assert found[9].reply.content["metrics"]["node"] == 9


def test_a_lost_connection_is_no_fault_of_a_node():
    def answer(message):  # noqa: ARG001
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        exchange(answer)
