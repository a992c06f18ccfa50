"""The in-process Grid: order, isolation, errors, state, time."""

from __future__ import annotations

import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import Mock

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode

from fedalign.errors import DeviceError, FedalignError
from fedalign.messages.groups import GroupRequest
from fedalign.simulation.inline import InlineGrid

SLOW = 0.3  # seconds
app = ClientApp()


@app.train()
def echo(message, _context):
    return Message(message.content, reply_to=message)


@app.train("boom")
def boom(message, context):
    if context.node_config["partition-id"] == 1:
        raise ValueError("client bug\nsecond line")
    return Message(RecordDict(), reply_to=message)


@app.train("interrupt")
def interrupt(_message, _context):
    raise KeyboardInterrupt


@app.train("nothing")
def nothing(_message, _context):
    return None


@app.train("foreign")
def foreign(message, _context):
    return message


@app.train("spoil")
def spoil(message, _context):
    content = message.content
    seen = MetricRecord(
        {
            "w": content["arrays"]["w"].numpy().tolist(),
            "lr": content["config"]["lr"],
            "layers": list(content["config"]["layers"]),
            "records": len(content),
        }
    )
    content["config"]["lr"] = 99.0
    content["config"]["layers"].append(99)
    content["arrays"]["w"].data = b"rubbish"
    content["arrays"]["extra"] = Array(np.zeros(1))
    content["mine"] = MetricRecord({"a": 1})
    message.metadata.group_id = "spoiled"
    return Message(RecordDict({"seen": seen}), reply_to=message)


@app.train("count")
def count(message, context):
    kept = context.state["me"] if "me" in context.state else MetricRecord({"visits": 0})
    kept["visits"] += 1
    context.state["me"] = kept
    return Message(RecordDict({"me": kept}), reply_to=message)


@app.train("trip")
def trip(_message, context):
    context.state["me"]["visits"] = 50
    context.state["more"] = MetricRecord({"a": 1})
    raise ValueError("too late")


@app.train("leave")
def leave(message, context):
    if context.node_config["partition-id"] == 0:
        sys.exit(3)
    return Message(RecordDict(), reply_to=message)


@app.train("slow")
def slow(message, _context):
    time.sleep(SLOW)
    return Message(message.content, reply_to=message)


@app.query()
def whoami(message, context):
    ids = MetricRecord({key: context.node_config[key] for key in context.node_config})
    return Message(RecordDict({"me": ids}), reply_to=message)


def content(size=3):
    return RecordDict(
        {
            "arrays": ArrayRecord({"w": Array(np.arange(size, dtype=np.float32))}),
            "config": ConfigRecord({"lr": 0.1, "layers": [1, 2]}),
        }
    )


def broadcast(grid, kind="train", size=3, nodes=None, **options):
    record = content(size)
    ids = grid.get_node_ids() if nodes is None else nodes
    return grid.send_and_receive([Message(record, node, kind) for node in ids], **options)


def test_node_ids_are_the_same_in_every_run():
    ids = InlineGrid(app, 3).get_node_ids()
    assert ids == InlineGrid(app, 3).get_node_ids() == [1000, 1001, 1002]
    assert [info.node_id for info in InlineGrid(app, 3).get_nodes()] == ids


def test_echo_of_every_size_in_the_order_asked_for():
    grid = InlineGrid(app, 4)
    nodes = grid.get_node_ids()[::-1]
    for size in (3, 100_000, 7, 3_000_000, 0):
        replies = broadcast(grid, size=size, nodes=nodes)
        assert [reply.metadata.src_node_id for reply in replies] == nodes
        for reply in replies:
            array = reply.content["arrays"]["w"].numpy()
            assert array.dtype == np.float32
            assert np.array_equal(array, np.arange(size, dtype=np.float32))


def test_no_messages_no_replies():
    assert broadcast(InlineGrid(app, 2), nodes=[]) == []


def test_messages_carry_run_sender_and_an_id_of_their_own():
    grid = InlineGrid(app, 3, run_id=42)
    InlineGrid(app, 3, run_id=43)  # a later Grid in the same process changes nothing
    messages = [Message(content(), node, "train") for node in grid.get_node_ids()]
    replies = grid.send_and_receive(messages)
    ids = {message.metadata.message_id for message in (*messages, *replies)}
    assert len(ids) == 6
    assert {message.metadata.run_id for message in (*messages, *replies)} == {42}
    assert {message.metadata.src_node_id for message in messages} == {1}
    assert {reply.metadata.dst_node_id for reply in replies} == {1}


def pulled(grid, ids):
    """All replies to these messages, in this order, once they are there."""
    found = {}
    while len(found) < len(ids):
        time.sleep(0.005)
        replies = grid.pull_messages([key for key in ids if key not in found])
        found |= {reply.metadata.reply_to_message_id: reply for reply in replies}
    return [found[key] for key in ids]


def test_push_and_pull_hand_out_each_reply_once_in_the_order_asked_for():
    grid = InlineGrid(app, 3)
    messages = [grid.create_message(content(), "query", node, "1") for node in grid.get_node_ids()]
    ids = grid.push_messages(messages)
    last, first = pulled(grid, [ids[2], ids[0]])
    assert last.content["me"] == {"partition-id": 2, "num-partitions": 3}
    assert first.content["me"]["partition-id"] == 0
    assert first.metadata.reply_to_message_id == ids[0]
    assert first.metadata.group_id == "1"
    again, left, unknown = pulled(grid, [ids[0], ids[1], "no such id"])
    assert left.metadata.src_node_id == 1001
    assert [again.error.code, unknown.error.code] == [ErrorCode.MESSAGE_UNAVAILABLE] * 2
    grid.close()


def test_push_returns_before_clients_have_run():
    grid, began = InlineGrid(app, 2), time.monotonic()
    record = content()
    ids = grid.push_messages(Message(record, node, "train.slow") for node in (1000, 1001))
    assert grid.pull_messages(ids) == []
    assert time.monotonic() - began < SLOW
    record["config"]["lr"] = 99.0  # too late
    assert [reply.content["config"]["lr"] for reply in pulled(grid, ids)] == [0.1, 0.1]
    grid.close()


def test_nobody_waits_for_a_closed_grid():
    grid = InlineGrid(app, 2)
    kinds = {1000: "train.slow", 1001: "train"}
    messages = [Message(content(), node, kind) for node, kind in kinds.items()]
    pushed = grid.push_messages(messages)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(broadcast, grid, nodes=[1000])
        time.sleep(SLOW / 3)
        grid.close()  # waits for the client that runs
        with pytest.raises(FedalignError, match="the grid has been closed"):
            waiting.result(10)
    assert [reply.metadata.src_node_id for reply in grid.pull_messages(pushed)] == [1000]
    for ask in (grid.pull_messages, lambda _: broadcast(grid)):
        with pytest.raises(FedalignError, match="the grid has been closed"):
            ask(pushed[1:])


def test_one_client_at_a_time_however_many_threads_send():
    grid, at_once, most = InlineGrid(ClientApp(), 6), [], []

    def busy(message, context):
        at_once.append(context.node_id)
        most.append(len(at_once))
        time.sleep(0.01)
        at_once.remove(context.node_id)
        return Message(RecordDict(), reply_to=message)

    grid._client_app.train()(busy)
    with ThreadPoolExecutor(6) as threads:
        replies = threads.map(lambda node: broadcast(grid, nodes=[node]), grid.get_node_ids())
        assert [reply.metadata.src_node_id for (reply,) in replies] == grid.get_node_ids()
    assert max(most) == 1


def test_messages_to_one_node_are_answered_in_order():
    grid = InlineGrid(app, 2)
    ids = grid.push_messages([Message(RecordDict(), 1000, "train.count") for _ in range(3)])
    replies = broadcast(grid, "train.count", nodes=[1000, 1001, 1000])
    assert [reply.content["me"]["visits"] for reply in replies] == [4, 1, 5]
    assert [reply.content["me"]["visits"] for reply in pulled(grid, ids)] == [1, 2, 3]
    grid.close()


def test_a_client_that_raises_leaves_no_trace_in_its_state():
    grid = InlineGrid(app, 1)
    (reply,) = broadcast(grid, "train.count")
    for kind in ("train.trip", "train.leave"):
        assert broadcast(grid, kind)[0].has_error()
        (reply,) = broadcast(grid, "train.count")
    assert reply.content["me"]["visits"] == 3


def test_only_a_client_that_leaves_is_lost(caplog):
    replies = broadcast(InlineGrid(app, 3), "train.leave")
    assert [reply.has_error() for reply in replies] == [True, False, False]
    assert replies[0].error.reason.startswith("SystemExit: 3\nTraceback")
    assert "client 0: SystemExit: 3" in caplog.text


def test_a_reply_or_a_dead_message_is_no_message():
    grid = InlineGrid(app, 1)
    (reply,) = broadcast(grid)
    dead = Message(content(), 1000, "train")
    dead.metadata.__dict__["_ttl"] = 0
    for message in (reply, dead):
        with pytest.raises(ValueError, match="Invalid message"):
            grid.push_messages([message])


def test_exception_is_an_error_reply():
    replies = broadcast(InlineGrid(app, 3), "train.boom")
    assert [reply.has_error() for reply in replies] == [False, True, False]
    error = replies[1].error
    assert error.code == 2
    first, *trace = error.reason.splitlines()
    assert first == "ValueError: client bug second line"
    assert trace[0].startswith("Traceback")
    assert any("in boom" in line for line in trace)


def test_keyboard_interrupt_passes_through():
    with pytest.raises(KeyboardInterrupt):
        broadcast(InlineGrid(app, 1), "train.interrupt")


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("train.nothing", "TypeError: the ClientApp returned a NoneType"),
        ("train.foreign", "ValueError: the ClientApp's Message has no reply_to="),
        ("train.unheard", "ValueError: No train function registered"),
    ],
)
def test_reply_that_is_none_is_an_error(kind, reason):
    (reply,) = broadcast(InlineGrid(app, 1), kind)
    assert reply.error.reason.startswith(reason)


def test_a_message_to_no_node_is_dropped_and_named(caplog):
    grid = InlineGrid(app, 2)
    replies = broadcast(grid, nodes=[1001, 7, 1000])
    assert [reply.metadata.src_node_id for reply in replies] == [1001, 1000]
    assert "a message to node 7 is dropped" in caplog.text
    messages = [Message(content(), node, "train") for node in (7, 1000)]
    assert grid.push_messages(messages) == [messages[1].metadata.message_id]
    grid.close()


def test_a_client_changes_neither_the_next_ones_message_nor_the_servers():
    grid = InlineGrid(app, 3, {"lr": 0.1})
    record = content()
    messages = [Message(record, node, "train.spoil") for node in grid.get_node_ids()]
    for reply in grid.send_and_receive(messages):
        assert reply.content["seen"] == {"w": [0, 1, 2], "lr": 0.1, "layers": [1, 2], "records": 2}
    assert record == content()
    assert {message.metadata.group_id for message in messages} == {""}
    broadcast(grid, nodes=[1000])


def test_state_is_kept_for_each_node_and_out_of_the_servers_reach():
    grid = InlineGrid(app, 3)
    for visit in (1, 2, 3):
        replies = broadcast(grid, "train.count", nodes=[1000, 1002])
        assert [reply.content["me"]["visits"] for reply in replies] == [visit, visit]
        replies[0].content["me"]["visits"] = 99
    assert grid._states.keys() == {1000, 1002}
    assert grid.context(1002).state["me"]["visits"] == 3


@pytest.mark.parametrize("late", [0, 1, 2])
def test_only_who_is_late_is_late(late):
    grid = InlineGrid(app, 3)
    kinds = ["train"] * 3
    kinds[late] = "train.slow"
    messages = [
        Message(content(), node, kind)
        for node, kind in zip(grid.get_node_ids(), kinds, strict=True)
    ]
    replies = grid.send_and_receive(messages, timeout=SLOW / 2)
    assert [r.metadata.src_node_id for r in replies] == [
        n for n in range(1000, 1003) if n - 1000 != late
    ]
    (reply,) = grid.pull_messages([messages[late].metadata.message_id])
    assert reply.has_content()


def test_a_late_reply_to_an_exchange_is_dropped():
    grid = InlineGrid(app, 2)
    messages = [
        Message(content(), node, kind)
        for node, kind in [(1000, "train.slow"), (1001, "train.count")]
    ]
    came = grid.exchange(messages, GroupRequest(), 1, SLOW / 2)
    assert [reply.metadata.src_node_id for reply in came.replies] == [1001]
    assert (came.states.keys(), grid._replies) == ({1001}, {})


def test_with_a_timeout_of_nothing_all_are_late():
    grid = InlineGrid(app, 2)
    messages = [Message(content(), node, "train") for node in (1000, 1001)]
    assert grid.send_and_receive(messages, timeout=0) == []
    assert len(pulled(grid, [message.metadata.message_id for message in messages])) == 2
    grid.close()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), DeviceError(RuntimeError(), {1: 1})])
def test_what_ends_a_push_is_raised_when_replies_are_pulled(error, monkeypatch):
    grid = InlineGrid(app, 2)
    monkeypatch.setattr(grid, "serve_group", Mock(side_effect=error))
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    ids = grid.push_messages([Message(content(), node, "train") for node in (1000, 1001)])
    with pytest.raises(type(error)):
        pulled(grid, ids)
    grid.close()


def test_a_hundred_thousand_nodes_cost_what_is_used_of_them():
    grid = InlineGrid(app, 100_000)
    ids = grid.get_node_ids()
    assert (len(ids), ids[-1]) == (100_000, 100_999)
    (reply,) = broadcast(grid, "query", nodes=ids[-1:])
    assert reply.content["me"] == {"partition-id": 99_999, "num-partitions": 100_000}
    assert grid._states == {}
    assert list(grid.partitions().items())[-1] == (99_999, 100_999)


def test_it_is_said_if_no_client_counts(caplog):
    """Flower's strategies divide by the sum of `num-examples`, whoever wrote the app."""
    app = ClientApp()

    @app.train()
    def train(message, context):
        count = MetricRecord({"num-examples": int(context.node_config["partition-id"]) // 2})
        return Message(RecordDict({"m": count}), reply_to=message)

    grid = InlineGrid(app, 3)
    record = RecordDict({"config": ConfigRecord({"server-round": 4})})
    for nodes, said in ((grid.get_node_ids(), False), (grid.get_node_ids()[:2], True)):
        grid.send_and_receive([Message(record, node, "train") for node in nodes])
        line = "round 4: all of 2 clients reply with 'num-examples' 0"
        assert (line in caplog.text) == said
