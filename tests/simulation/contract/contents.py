"""What a ServerApp may rely on of Flower's Grid: what messages hold, and what clients keep.

Each function asserts what Flower's own engine does, as `test_contract.py` tries; ours are held
to it. The docstrings are the rows of the table in `docs/flower-apps.md`. `pace` is the unit of time
in seconds: a short call takes much less, on any engine.
"""

import uuid

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord

from tests.simulation.contract.asking import ask, content, nodes_of, statements, to_all, visits_of


def replies_say_what_they_answer(grid, pace):  # noqa: ARG001
    """A reply has its message's group and type, this run, an id, its node as sender, and us."""
    messages = [Message(content(), node, "train", group_id="g 7") for node in nodes_of(grid)]
    for reply in grid.send_and_receive(messages):
        meta = reply.metadata
        (asked,) = [m for m in messages if m.metadata.message_id == meta.reply_to_message_id]
        assert (meta.group_id, meta.message_type) == ("g 7", "train")
        assert meta.src_node_id == asked.metadata.dst_node_id
        assert meta.dst_node_id == asked.metadata.src_node_id == 1
        assert meta.run_id == asked.metadata.run_id == grid.run.run_id
        assert meta.message_id not in ("", asked.metadata.message_id)


def clients_see_what_was_said(grid, pace):  # noqa: ARG001
    """A client sees the message's id, sender, receiver, run, group and time to live."""
    (node,) = nodes = nodes_of(grid)[:1]
    message = Message(content(), node, "train.other", group_id="9", ttl=1234.5)
    (reply,) = grid.send_and_receive([message])
    texts = reply.content["texts"]
    run = str(grid.run.run_id)
    assert texts["id"] == message.metadata.message_id
    assert (texts["src"], texts["dst"], texts["node"]) == ("1", str(node), str(nodes[0]))
    assert (texts["run"], texts["metadata-run"]) == (run, run)
    assert (texts["group"], texts["type"], texts["reply-to"]) == ("9", "train.other", "")
    assert reply.content["numbers"]["ttl"] == 1234.5


def group_is_empty_by_default(grid, pace):  # noqa: ARG001
    """Without a group, message and reply have the group ''."""
    assert {reply.metadata.group_id for reply in ask(grid).values()} == {""}


def create_message_still_works(grid, pace):  # noqa: ARG001
    """The deprecated `create_message` makes a message like any other."""
    (node,) = nodes_of(grid)[:1]
    message = grid.create_message(content(), "query", node, "3", ttl=99.0)
    (reply,) = grid.send_and_receive([message])
    assert reply.content["texts"]["type"] == "query"
    assert reply.metadata.group_id == "3"
    assert reply.content["numbers"]["ttl"] == 99.0


def every_type_and_action(grid, pace):  # noqa: ARG001
    """`train`, `evaluate` and `query`, with and without an action, reach their functions."""
    for kind in ("train", "evaluate", "query", "train.other", "evaluate.other", "query.other"):
        replies = ask(grid, kind, nodes=nodes_of(grid)[:2])
        assert [reply.content["texts"]["type"] for reply in replies.values()] == [kind] * 2
        assert {reply.metadata.message_type for reply in replies.values()} == {kind}


def types_in_one_batch(grid, pace):  # noqa: ARG001
    """Messages of one batch may have different types and contents."""
    nodes = nodes_of(grid)
    kinds = ("train", "evaluate", "query", "train.other")
    messages = [
        Message(content(n=MetricRecord({"n": place})), node, kind)
        for place, (node, kind) in enumerate(zip(nodes, kinds, strict=True))
    ]
    replies = {reply.metadata.src_node_id: reply for reply in grid.send_and_receive(messages)}
    said = [
        (replies[node].content["texts"]["type"], replies[node].content["n"]["n"]) for node in nodes
    ]
    assert said == [(kind, place) for place, kind in enumerate(kinds)]


def arrays_keep_shape_and_type(grid, pace):  # noqa: ARG001
    """Arrays of any type and shape, also empty ones, and records of all kinds come back equal."""
    kinds = ("f2", "f4", "f8", "i1", "u1", "i8", "?", "c16")
    arrays = {kind: np.ones((2, 3), kind) for kind in kinds} | {
        "empty": np.zeros((0, 4), "f4"), "scalar": np.array(3.5), "big": np.arange(300_000.0),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    }  # fmt: skip
    record = content(
        arrays=ArrayRecord({key: Array(value) for key, value in arrays.items()}),
        metrics=MetricRecord({"i": 2**40, "f": 0.1, "l": [1, 2], "e": []}),
        settings=ConfigRecord({"b": b"\x00\xff", "s": "ä", "t": True, "l": ["x"]}),
    )
    for reply in ask(grid, record=record, nodes=nodes_of(grid)[:2]).values():
        for key, value in arrays.items():
            back = reply.content["arrays"][key].numpy()
            assert (back.dtype, back.shape) == (value.dtype, value.shape)
            assert np.array_equal(back, value)
        assert reply.content["metrics"] == record["metrics"]
        assert reply.content["settings"] == record["settings"]


def order_of_arrays_is_kept(grid, pace):  # noqa: ARG001
    """Arrays come in the order in which they were put into their record."""
    names = ["z", "a", "m"]
    record = content(arrays=ArrayRecord({name: Array(np.zeros(1)) for name in names}))
    for reply in ask(grid, record=record).values():
        assert list(reply.content["arrays"]) == names


def a_message_is_nobody_elses(grid, pace):  # noqa: ARG001
    """What a client changes in its message is seen by no other client, nor by the server."""
    record = content(arrays=ArrayRecord({"w": Array(np.arange(3.0))}))
    key = record["config"]["key"]
    for reply in ask(grid, "train.spoil", record).values():
        assert reply.content["seen"] == {"w": [0.0, 1.0, 2.0], "n": 3}
    assert (list(record), record["config"]["key"]) == (["config", "arrays"], key)
    assert record["arrays"]["w"].numpy().tolist() == [0.0, 1.0, 2.0]


def state_is_kept(grid, pace):  # noqa: ARG001
    """A node's `Context.state` is kept from message to message, whatever their type."""
    key = uuid.uuid4().hex
    for visit, kind in enumerate(("train", "evaluate", "query"), start=1):
        replies = ask(grid, kind, content(key))
        assert [visits_of(reply) for reply in replies.values()] == [visit] * 4


def state_is_each_nodes_own(grid, pace):  # noqa: ARG001
    """A node's state counts its own messages only."""
    key, nodes = uuid.uuid4().hex, nodes_of(grid)
    ask(grid, record=content(key), nodes=nodes[:2])
    replies = ask(grid, record=content(key))
    assert [visits_of(replies[node]) for node in nodes] == [2, 2, 1, 1]


def state_takes_all_records(grid, pace):  # noqa: ARG001
    """Records of all kinds are kept, also if the reply holds the same objects."""
    (node,) = nodes = nodes_of(grid)[:1]
    ask(grid, "train.store", nodes=nodes)
    state = ask(grid, "query.stored", nodes=nodes)[node].content
    assert state["array"]["w"].numpy().tolist() == [0.0, 1.0, 2.0]
    assert state["config"] == {"b": b"\x00\x01", "s": ["x", "y"]}
    assert state["metric"] == {"m": [1, 2]}


def state_of_a_failed_client(grid, pace):  # noqa: ARG001
    """A client that raised has the state that it had before."""
    key = uuid.uuid4().hex
    ask(grid, record=content(key))
    ask(grid, "train.fail", content(key))
    replies = ask(grid, "query.stored").values()
    assert [(reply.content[key]["visits"], "failed" in reply.content) for reply in replies] == [
        (1, False)
    ] * 4


def messages_to_one_node_are_in_order(grid, pace):  # noqa: ARG001
    """Several messages for a node in one batch are served in order, each with the last's state."""
    key, (node,) = uuid.uuid4().hex, nodes_of(grid)[:1]
    messages = to_all(grid, record=content(key), nodes=[node] * 3)
    replies = {r.metadata.reply_to_message_id: r for r in grid.send_and_receive(messages)}
    assert [visits_of(replies[m.metadata.message_id]) for m in messages] == [1, 2, 3]


def mods_run_from_outside_in(grid, pace):  # noqa: ARG001
    """The app's mods run around those of the action, around the function, at every call."""
    for _ in range(2):
        replies = ask(grid, "train.modded", nodes=nodes_of(grid)[:2])
        assert [reply.content["trace"]["mods"] for reply in replies.values()] == [
            ["app", "action"]
        ] * 2
        assert all(reply.content["outer"] == {"seen": 1} for reply in replies.values())


STATEMENTS = statements(globals())
