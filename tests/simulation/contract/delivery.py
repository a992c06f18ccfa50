"""What a ServerApp may rely on of Flower's Grid: who is there, what is delivered, and when.

Each function asserts what Flower's own engine does, as `test_contract.py` tries; ours are held
to it. The docstrings are the rows of the table in `docs/flower-apps.md`. `pace` is the unit of time
in seconds: a short call takes much less, on any engine.
"""

import random
import time
import uuid

import pytest
from flwr.app import Error, Message, RecordDict
from flwr.supercore.run import Run

from tests.simulation.contract.asking import (
    PATIENCE,
    ask,
    await_all,
    content,
    in_threads,
    nodes_of,
    statements,
    to_all,
    visits_of,
)  # fmt: skip


def nodes_are_known(grid, pace):  # noqa: ARG001
    """`get_node_ids` and `get_nodes` name every node once, by a positive number."""
    ids = list(grid.get_node_ids())
    assert len(ids) == len(set(ids)) == 4
    assert all(type(node) is int and node > 1 for node in ids)
    assert sorted(info.node_id for info in grid.get_nodes()) == sorted(ids)


def nodes_have_partitions(grid, pace):  # noqa: ARG001
    """Each node has a `partition-id` of its own, and `num-partitions`, in its `node_config`."""
    numbers = [reply.content["numbers"] for reply in ask(grid).values()]
    assert sorted(record["partition"] for record in numbers) == [0, 1, 2, 3]
    assert {record["partitions"] for record in numbers} == {4}


def partitions_stay(grid, pace):  # noqa: ARG001
    """A node has the same partition in every message."""
    seen = [
        {node: reply.content["numbers"]["partition"] for node, reply in ask(grid).items()}
        for _ in range(2)
    ]
    assert seen[0] == seen[1]


def push_returns_ids(grid, pace):  # noqa: ARG001
    """`push_messages` returns an id for each message, in their order, and writes it into them."""
    messages = to_all(grid)
    ids = list(grid.push_messages(messages))
    assert ids == [message.metadata.message_id for message in messages]
    assert len(set(ids)) == 4
    assert all(type(key) is str for key in ids)
    await_all(grid, ids)


def push_takes_any_iterable(grid, pace):  # noqa: ARG001
    """Messages and ids may come from a generator, and there may be none."""
    ids = list(grid.push_messages(message for message in to_all(grid)))
    assert len(ids) == 4
    end = time.monotonic() + PATIENCE
    came = []
    while len(came) < 4 and time.monotonic() < end:
        seen = {reply.metadata.reply_to_message_id for reply in came}
        came += grid.pull_messages(key for key in ids if key not in seen)
        time.sleep(0.01)
    assert len(came) == 4
    assert list(grid.push_messages([])) == list(grid.pull_messages([])) == []
    assert list(grid.send_and_receive([])) == []


def push_returns_at_once(grid, pace):
    """`push_messages` does not wait for clients; `pull_messages` returns what there is."""
    ask(grid)
    started = time.monotonic()
    slow = to_all(grid, "train.sleep", content(seconds=4 * pace), nodes_of(grid)[:2])
    ids = list(grid.push_messages(slow))
    assert list(grid.pull_messages(ids)) == []
    assert time.monotonic() - started < 3 * pace
    assert len(await_all(grid, ids)) == 2


def replies_come_one_by_one(grid, pace):
    """A reply can be pulled while other clients of the same push still work."""
    nodes = nodes_of(grid)
    slow = Message(content(seconds=6 * pace), nodes[1], "train.sleep")
    messages = [Message(content(), nodes[0], "train"), slow]
    quick, late = grid.push_messages(messages)
    assert await_all(grid, [quick]).keys() == {quick}
    assert list(grid.pull_messages([late])) == []
    await_all(grid, [late])


def pushes_overlap(grid, pace):
    """Clients that were pushed one by one work at the same time, as far as there are workers."""
    ask(grid)
    started, ids = time.monotonic(), []
    for node in nodes_of(grid)[:2]:
        ids += grid.push_messages(to_all(grid, "train.sleep", content(seconds=6 * pace), [node]))
    await_all(grid, ids)
    assert time.monotonic() - started < 11 * pace


def pull_gives_each_reply_once(grid, pace):  # noqa: ARG001
    """A reply is returned once; then its id is unknown, which gives an error reply (code 3)."""
    ids = list(grid.push_messages(to_all(grid)))
    await_all(grid, ids)
    again = list(grid.pull_messages(ids))
    assert [reply.error.code for reply in again] == [3] * 4
    assert {reply.metadata.reply_to_message_id for reply in again} == set(ids)


def pull_of_an_unknown_id(grid, pace):  # noqa: ARG001
    """An id that nobody was given gives an error reply that names it (code 3)."""
    (reply,) = grid.pull_messages(["nobody"])
    assert reply.has_error()
    assert reply.error.code == 3
    assert reply.metadata.reply_to_message_id == "nobody"


def each_node_replies(grid, pace):  # noqa: ARG001
    """`send_and_receive` returns one reply for each message."""
    messages = to_all(grid)
    replies = list(grid.send_and_receive(messages))
    answered = {reply.metadata.reply_to_message_id for reply in replies}
    assert answered == {message.metadata.message_id for message in messages}
    assert len(replies) == 4


def timeout_leaves_out_the_late(grid, pace):
    """With a `timeout`, only the clients that are late are missing."""
    nodes = nodes_of(grid)
    ask(grid)
    slow = Message(content(seconds=12 * pace), nodes[0], "train.sleep")
    started = time.monotonic()
    replies = list(grid.send_and_receive([slow, *to_all(grid, nodes=nodes[1:])], timeout=6 * pace))
    assert time.monotonic() - started < 11 * pace
    assert {reply.metadata.src_node_id for reply in replies} == set(nodes[1:])
    await_all(grid, [slow.metadata.message_id])


def late_replies_can_be_pulled(grid, pace):
    """A client that was late goes on, and its reply can be pulled by its message's id."""
    (slow,) = to_all(grid, "train.sleep", content(seconds=4 * pace), nodes_of(grid)[:1])
    assert list(grid.send_and_receive([slow], timeout=2 * pace)) == []
    (reply,) = await_all(grid, [slow.metadata.message_id]).values()
    assert visits_of(reply) == 1


def a_late_client_is_there_again(grid, pace):
    """A client that was late is asked again once it is done; its state has both visits."""
    key, node = uuid.uuid4().hex, nodes_of(grid)[0]
    (slow,) = to_all(grid, "train.sleep", content(key, 4 * pace), [node])
    assert list(grid.send_and_receive([slow], timeout=pace)) == []
    await_all(grid, [slow.metadata.message_id])
    assert visits_of(ask(grid, record=content(key), nodes=[node])[node]) == 2


def timeout_of_nothing(grid, pace):  # noqa: ARG001
    """With `timeout=0` the messages are sent, nothing is returned, and all can be pulled."""
    messages = to_all(grid)
    assert list(grid.send_and_receive(messages, timeout=0)) == []
    assert len(await_all(grid, [message.metadata.message_id for message in messages])) == 4


def an_exception_is_an_error_reply(grid, pace):  # noqa: ARG001
    """A client that raised gives an error reply with code 2 and the exception's text."""
    record = content()
    ask(grid, record=record)
    replies = ask(grid, "train.fail", record)
    assert [reply.has_content() for reply in replies.values()] == [False] * 4
    for node, reply in replies.items():
        assert reply.error.code == 2
        assert "a bug in the client" in reply.error.reason
        assert (reply.metadata.src_node_id, reply.metadata.dst_node_id) == (node, 1)
    assert not any(reply.has_error() for reply in ask(grid).values())


def an_unheard_action_is_an_error_reply(grid, pace):  # noqa: ARG001
    """A type for which the ClientApp has no function gives an error reply that says so."""
    replies = ask(grid, "train.unheard")
    reason = "No train function registered with name 'unheard'"
    assert [(r.error.code, reason in r.error.reason) for r in replies.values()] == [(2, True)] * 4


def a_client_without_reply(grid, pace):  # noqa: ARG001
    """A client that returns nothing gives an error reply."""
    assert [reply.has_error() for reply in ask(grid, "train.nothing").values()] == [True] * 4


def an_unknown_node_is_left_out(grid, pace):  # noqa: ARG001
    """A message to a node that does not exist gets no id and no reply; the others are served."""
    nodes = nodes_of(grid)
    record = content()
    ids = list(grid.push_messages([Message(record, node, "train") for node in (nodes[0], 7)]))
    assert len(ids) == 1
    replies = await_all(grid, ids)
    assert [reply.metadata.src_node_id for reply in replies.values()] == nodes[:1]
    assert ask(grid, record=record, nodes=[7, *nodes]).keys() == set(nodes)


def a_reply_cannot_be_pushed(grid, pace):  # noqa: ARG001
    """A reply passed to `push_messages` raises `ValueError`."""
    (reply,) = grid.send_and_receive(to_all(grid, nodes=nodes_of(grid)[:1]))
    with pytest.raises(ValueError, match="Invalid message"):
        grid.push_messages([Message(RecordDict(), reply_to=reply)])
    with pytest.raises(ValueError, match="Invalid message"):
        grid.push_messages([Message(Error(0), reply_to=reply)])


def a_message_is_sent_once(grid, pace):  # noqa: ARG001
    """A message that was delivered cannot be pushed again: `ValueError`."""
    messages = to_all(grid)
    assert len(list(grid.send_and_receive(messages))) == 4
    with pytest.raises(ValueError, match="Invalid message"):
        grid.push_messages(messages)


def time_to_live_ends(grid, pace):
    """A message whose time to live is over before its reply gives an error reply (code 3)."""
    (node,) = nodes_of(grid)[:1]
    ask(grid, nodes=[node])
    message = Message(content(seconds=4 * pace), node, "train.sleep", ttl=2 * pace)
    (reply,) = grid.send_and_receive([message])
    assert (reply.error.code, reply.metadata.reply_to_message_id) == (
        3,
        message.metadata.message_id,
    )
    time.sleep(4 * pace)


def the_run_config_is_the_runs(grid, pace):  # noqa: ARG001
    """A client that changes its `run_config` gives an error reply; no other client sees it."""
    nodes = nodes_of(grid)
    before = ask(grid, nodes=nodes[:1])[nodes[0]].content["texts"]["run-config"]
    assert ask(grid, "train.config", nodes=nodes[:1])[nodes[0]].has_error()
    assert [
        reply.content["texts"]["run-config"] for reply in ask(grid, nodes=nodes[1:]).values()
    ] == [before] * 3


def threads_get_their_own_replies(grid, pace):  # noqa: ARG001
    """Several threads may use the Grid at a time; each gets the replies to its own messages."""
    came, key = {}, uuid.uuid4().hex

    def work(node):
        time.sleep(random.Random(node).random() / 100)
        came[node] = list(
            grid.send_and_receive(to_all(grid, record=content(key), nodes=[node] * 2))
        )

    in_threads(work, nodes_of(grid))
    assert sorted(came) == nodes_of(grid)
    for node, replies in came.items():
        assert [reply.metadata.src_node_id for reply in replies] == [node] * 2
        assert sorted(visits_of(reply) for reply in replies) == [1, 2]


def a_process_runs_one_client(grid, pace):
    """However many threads send, a process runs one client at a time."""
    record, came = content(seconds=pace / 2), []

    def work(node):
        came.extend(grid.send_and_receive(to_all(grid, "train.alone", record, [node])))

    in_threads(work, nodes_of(grid))
    assert [reply.content["me"]["together"] for reply in came] == [1] * 4


def one_that_exits_is_alone(grid, pace):  # noqa: ARG001
    """A client that calls `sys.exit` gives an error reply; the others of its batch do not."""
    nodes = nodes_of(grid)
    leaving = Message(content(), nodes[1], "train.exit")
    messages = [leaving, *to_all(grid, nodes=[nodes[0], *nodes[2:]])]
    replies = {reply.metadata.src_node_id: reply for reply in grid.send_and_receive(messages)}
    assert [replies[node].has_error() for node in nodes] == [False, True, False, False]


def set_run_takes_a_known_run(grid, pace):  # noqa: ARG001
    """`set_run` takes this run; another one is a `RuntimeError`, a number a `TypeError`."""
    assert isinstance(grid.run, Run)
    grid.set_run(grid.run)
    with pytest.raises(TypeError):
        grid.set_run(grid.run.run_id)
    with pytest.raises(RuntimeError, match="Cannot find the run"):
        grid.set_run(Run.create_empty(grid.run.run_id ^ 1))


STATEMENTS = statements(globals())
