"""Nodes that come, go, come back, and are refused."""

import logging
import re

import pytest
from flwr.app import Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedalign.errors import FedalignError
from fedalign.server.exchange import reason_of
from fedalign.server.remote_nodes import RemoteNodes
from fedalign.simulation.inline import InlineGrid


class Hall:
    """A grid with nodes that answer what they are told to, or an error."""

    def __init__(self, **nodes):
        self.answers = {int(name[1:]): answer for name, answer in nodes.items()}
        self.there = set(self.answers)
        self.asked, self.sent = [], {}
        InlineGrid(ClientApp(), 1)  # messages belong to its run

    def get_node_ids(self):
        return list(self.there)

    def push_messages(self, messages):
        for message in messages:
            node = message.metadata.dst_node_id
            self.asked.append((node, dict(message.content["config"])))
            message.metadata.__dict__["_message_id"] = f"to {node}, {len(self.asked)}"
            self.sent[message.metadata.message_id] = message
        return [message.metadata.message_id for message in messages]

    def pull_messages(self, message_ids):
        replies = []
        for message in [self.sent[id] for id in message_ids]:
            answer = self.answers[message.metadata.dst_node_id]
            if isinstance(answer, str):
                replies.append(Message(Error(1, answer), reply_to=message))
            elif answer is not None:
                told = {key.replace("_", "-"): value for key, value in answer.items()}
                replies.append(
                    Message(RecordDict({"whoami": MetricRecord(told)}), reply_to=message)
                )
        return replies


def node(partition, **more):
    return {"partition_id": partition, **more}


def guests(hall, expected, least=None, timeout=0.2):
    return RemoteNodes(hall, {"data-classes": 3}, expected, least, timeout)


def test_nodes_are_asked_once_and_go_by_partition():
    hall = Hall(n7=node(1, examples=10, tests=4), n3=node(0, examples=5), n9=node(2, own=1))
    nodes = guests(hall, 3)
    assert list(nodes.present().items()) == [(0, 3), (1, 7), (2, 9)]
    assert nodes.present() == {0: 3, 1: 7, 2: 9}
    assert hall.asked == [(n, {"data-classes": 3}) for n in (3, 7, 9)]
    assert nodes.train_examples == {0: 5, 1: 10, 2: 1}
    assert nodes.test_examples == {0: 0, 1: 4, 2: 0}
    assert nodes.hold_own_data


def test_a_node_without_a_partition_goes_by_its_id():
    nodes = guests(Hall(n5={"own": 1}, n2={"own": 1}), 2)
    assert nodes.present() == {2: 2, 5: 5}


def test_flowers_own_engine_says_how_many_nodes_there_are():
    nodes = guests(Hall(n1=node(0, num_partitions=2)), None)
    with pytest.raises(FedalignError, match="1 of 2 nodes came within 0 s, and 2 must"):
        nodes.present()
    assert guests(Hall(n1=node(0, num_partitions=2)), None, least=1).present() == {0: 1}


def test_who_leaves_who_comes_late_and_who_comes_back(caplog):
    hall = Hall(n1=node(0), n2=node(1), n3=node(2))
    hall.there = {1, 2}
    nodes = guests(hall, 3, least=1)
    assert nodes.present() == {0: 1, 1: 2}
    hall.there = {1, 2, 3}
    assert nodes.present() == {0: 1, 1: 2, 2: 3}
    hall.there = {3}
    assert nodes.present() == {2: 3}
    hall.there = {1, 3}
    assert nodes.present() == {0: 1, 2: 3}
    assert [asked for asked, _ in hall.asked] == [1, 2, 3, 1]  # whoever comes back is asked again
    said = [record.getMessage() for record in caplog.records]
    assert said[0] == "client 2 has come"
    assert set(said[1:3]) == {"client 0 has left", "client 1 has left"}
    assert said[3] == "client 0 has come"


def test_a_round_waits_for_enough_nodes(caplog, monkeypatch):
    hall = Hall(n1=node(0), n2=node(1))
    nodes = guests(hall, 2, timeout=60)
    nodes.present()
    hall.there = {1}
    monkeypatch.setattr("fedalign.server.remote_nodes.time.sleep", lambda _: hall.there.add(2))
    assert nodes.present() == {0: 1, 1: 2}
    assert "waiting: 1 of 2 nodes are there, and 2 must be" in caplog.text


def test_one_that_takes_its_time_holds_up_nobody(caplog):
    hall = Hall(n1=node(0), n2=None)
    nodes = guests(hall, 2, least=1, timeout=60)
    assert nodes.present() == {0: 1}
    hall.answers[2] = node(1)
    assert nodes.present() == {0: 1, 1: 2}
    assert [asked for asked, _ in hall.asked] == [1, 2]
    assert caplog.messages == ["client 1 has come"]


def test_one_that_dies_before_it_answers_is_asked_again():
    hall = Hall(n1=node(0), n2="Node Unavailable")
    nodes, pull = guests(hall, 2, timeout=60), hall.pull_messages

    def superlink_answers(message_ids):
        replies = pull(message_ids)
        for reply in replies:
            if reply.has_error():
                reply.metadata.__dict__["_src_node_id"] = 1 << 20
                hall.answers[2] = node(1)
        return replies

    hall.pull_messages = superlink_answers
    assert nodes.present() == {0: 1, 1: 2}
    assert [asked for asked, _ in hall.asked] == [1, 2, 2]


def test_a_refused_node_is_named_and_the_others_begin(caplog):
    hall = Hall(n1=node(0), n2="InputError: /data: images are 3x8x8\n  a traceback")
    with caplog.at_level(logging.WARNING):
        assert guests(hall, 2, least=1).present() == {0: 1}
    assert caplog.messages == [
        "node 2 cannot take part: InputError: /data: images are 3x8x8",
    ]


def test_where_all_are_needed_a_refusal_ends_the_run_at_once():
    hall = Hall(n1=node(0), n2="no data")
    with pytest.raises(
        FedalignError, match=r"1 of 2 nodes can take part, and 2 must: node 2.*no d"
    ):
        guests(hall, 2, timeout=3600).present()


def test_a_refused_node_that_comes_back_is_asked_again():
    hall = Hall(n1=node(0), n2="no data")
    nodes = guests(hall, 2, least=1)
    nodes.present()
    hall.there = {1}
    nodes.present()
    hall.there, hall.answers[2] = {1, 2}, node(1)
    assert nodes.present() == {0: 1, 1: 2}


def test_two_nodes_cannot_hold_one_partition(caplog):
    assert guests(Hall(n1=node(0), n2=node(0)), 2, least=1).present() == {0: 1}
    assert "node 2 cannot take part: it holds partition 0, as another node does" in caplog.text


LIES = {
    "more": ({"num_partitions": 1000000}, "that there are 1000000 partitions, and there are 2"),
    "negative": ({"num_partitions": -1}, "that there are -1 partitions, and there are 2"),
    "beyond": ({"partition_id": 2}, "that it holds partition 2, not one from 0 to 1"),
    "below": ({"partition_id": -1}, "that it holds partition -1, not one from 0 to 1"),
    "none": ({"examples": 0}, "that it has 0 examples, not 1 to 1000000000"),
    "countless": ({"examples": 1 << 40}, "has 1099511627776 examples, not 1 to 1000000000"),
    "untested": ({"tests": -1}, "that it has -1 tests, not 0 to 1000000000"),
    "other": ({"examples": 7}, r"has \(7, 1\) training and test examples, and it has \(5, 1\)"),
}


@pytest.mark.parametrize("kind", LIES)
def test_a_node_that_lies_about_itself_is_refused_and_the_others_begin(kind, caplog):
    """The liar answers first."""
    lies, said = LIES[kind]
    well = {"num_partitions": 2, "examples": 5, "tests": 1}
    hall = Hall(n1=node(**{"partition": 0} | well) | lies, n2=node(1, **well))
    nodes = RemoteNodes(hall, {}, 2, 1, 0.2, lambda _: (5, 1))
    assert nodes.present() == {1: 2}
    assert nodes.population == 2
    assert re.search(f"node 1 cannot take part: it says .*{said}", caplog.text)


@pytest.mark.parametrize("forge", [
    {"_src_node_id": 2}, {"_reply_to_message_id": "to 2, 2"}, {"_src_node_id": -5},
])  # fmt: skip
def test_an_answer_counts_for_the_node_that_was_asked(forge, caplog):
    hall = Hall(n1=node(1), n2=node(0))
    pull = hall.pull_messages

    def forged(ids):
        replies = pull(ids)
        for reply in replies if ids == ["to 1, 1"] else ():
            reply.metadata.__dict__.update(forge)
        return replies

    hall.pull_messages = forged
    assert guests(hall, 2, least=1).present() == {0: 2}
    assert "node 1 cannot take part: its reply says that" in caplog.text


def test_a_client_that_outweighs_all_others_is_named_once(caplog):
    own = {"own": 1, "tests": 6}
    hall = Hall(n1=node(0, examples=9, **own), n2=node(1, examples=5, **own))
    nodes = guests(hall, 3, least=2)
    nodes.present()
    assert not caplog.messages  # of two, one has half nearly always
    hall.answers[3] = node(2, examples=14, own=1, tests=10**9)
    hall.there.add(3)
    nodes.present()
    nodes.present()
    assert caplog.messages[1:] == [
        "client 2 states 1000000000 of all 1000000012 test examples: it outweighs all others"
    ]


def test_a_node_that_does_not_say_who_it_is_is_refused(caplog):
    hall = Hall(n1=node(1), n2=node(0))
    pull = hall.pull_messages

    def silent(ids):
        replies = pull(ids)
        for reply in replies if ids == ["to 1, 1"] else ():
            del reply.content["whoami"]
        return replies

    hall.pull_messages = silent
    assert guests(hall, 2, least=1).present() == {0: 2}
    assert "node 1 cannot take part: its reply does not say who it is" in caplog.text


def test_errors_of_clients_are_told_in_their_own_words():
    def told(reason):
        message = Message(RecordDict(), 1, "train")
        return reason_of(Message(Error(1, reason), reply_to=message))

    InlineGrid(ClientApp(), 1)
    assert told("<class 'fedalign.errors.InputError'>:<'/data: no images'>") == "/data: no images"
    assert told("<class 'fedalign.errors.InputError'>:<\"data: 'x' lacks\">") == "data: 'x' lacks"
    assert told("<class 'ValueError'>:<'too far'>") == "ValueError: too far"
    assert told("Node Unavailable\nmore") == "Node Unavailable"
