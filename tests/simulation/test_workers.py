"""The engine on Ray workers: replies as inline, and nothing hangs when clients misbehave."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from fedalign.errors import FedalignError, InputError
from fedalign.simulation.app import load_component
from fedalign.simulation.inline import InlineGrid
from tests.doubles import one_file_app

CLIENT = """
import os, sys, time
from flwr.app import Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

def stamp(message, context, call_next):
    reply = call_next(message, context)
    reply.content["mod"] = MetricRecord({"seen": 1})
    return reply

app = ClientApp(mods=[stamp])

@app.train()
def train(message, context):
    visits = context.state["me"]["visits"] + 1 if "me" in context.state else 1
    context.state["me"] = MetricRecord({"visits": visits})
    ids = {"visits": visits, "partition": context.node_config["partition-id"], "pid": os.getpid()}
    ids["torch"] = int("torch" in sys.modules)
    ids["gpu"] = int(os.environ.get("CUDA_VISIBLE_DEVICES") or -1)
    message.content["config"]["spoilt"] = True
    content = {"arrays": message.content["arrays"], "me": MetricRecord(ids)}
    return Message(RecordDict(content), reply_to=message)

@app.train("pause")
def pause(message, context):
    time.sleep(0.1)
    return train(message, context)

@app.train("boom")
def boom(message, context):
    raise ValueError("a bug in the client")

@app.train("die")
def die(message, context):
    if context.node_config["partition-id"] == 3:
        os._exit(9)
    return train(message, context)

@app.train("stumble")
def stumble(message, context):
    flag = context.run_config["flag"]
    if not os.path.exists(flag):
        open(flag, "w").close()
        os._exit(9)
    return train(message, context)

@app.train("hang")
def hang(message, context):
    if context.node_config["partition-id"] == 3:
        time.sleep(600)
    return train(message, context)

@app.train("late")
def late(message, context):
    if context.node_config["partition-id"] == 0:
        time.sleep(1.5)
    return train(message, context)

@app.train("leave")
def leave(message, context):
    if context.node_config["partition-id"] == 3:
        sys.exit("enough")
    return train(message, context)

@app.train("trip")
def trip(message, context):
    context.state["me"]["visits"] += 50
    raise ValueError("too late")
"""


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    return one_file_app(tmp_path_factory.mktemp("app"), "echoing", CLIENT)


@pytest.fixture(scope="module")
def grid(ray, app):  # noqa: ARG001
    from fedalign.simulation.workers import RayGrid

    grid = RayGrid(app, 6, {"key": 1}, run_id=7)
    grid.start(ClientApp())
    yield grid
    grid.close()


def send(grid, kind="train", size=5, nodes=None, **options):
    arrays = ArrayRecord({"w": Array(np.arange(size, dtype=np.float32))})
    content = RecordDict({"arrays": arrays, "config": ConfigRecord({"lr": 0.1})})
    nodes = grid.get_node_ids() if nodes is None else nodes
    messages = [Message(content, node, kind) for node in nodes]
    return content, grid.send_and_receive(messages, **options)


def visited(grid, nodes=None):
    return {r.metadata.src_node_id: r.content["me"]["visits"] for r in send(grid, nodes=nodes)[1]}


@pytest.mark.parametrize("size", [0, 3, 1_000_000])
def test_arrays_come_back_in_the_order_asked_for(grid, size):
    order = grid.get_node_ids()[::-1]
    content, replies = send(grid, size=size, nodes=order)
    assert [reply.metadata.src_node_id for reply in replies] == order
    for reply in replies:
        assert np.array_equal(reply.content["arrays"]["w"].numpy(), np.arange(size, dtype="f4"))
        assert reply.content["mod"]["seen"] == 1
    assert "spoilt" not in content["config"]


def test_state_follows_the_client_to_any_worker(grid, app):
    app.put_on_path()
    inline = InlineGrid(load_component(app.client, app.root), 6, run_id=7)
    before = {node: visits - 1 for node, visits in visited(grid).items()}
    visited(inline)
    for nodes in ([1000, 1002, 1005], [1004, 1001], [1003, 1001, 1002]):
        there, here = visited(grid, nodes), visited(inline, nodes)
        assert {node: visits - before[node] for node, visits in there.items()} == here


def both_at_work(grid, ask=send):
    """What clients say of their workers, once both of them have started."""
    until, told = time.monotonic() + 60, []
    while len({me["pid"] for me in told}) < 2 and time.monotonic() < until:
        told = [reply.content["me"] for reply in ask(grid, "train.pause")[1]]
    assert len({me["pid"] for me in told}) == 2
    return told


def test_both_workers_work(grid):
    assert not any(me["torch"] for me in both_at_work(grid))  # unless the app wants it


def test_exception_is_an_error_reply_with_its_reason_first(grid):
    _, replies = send(grid, "train.boom")
    assert all(
        reply.error.reason.startswith("ValueError: a bug in the client\n") for reply in replies
    )
    assert not any(reply.has_error() for reply in send(grid)[1])


def test_a_worker_that_dies_is_replaced_and_the_round_goes_on(grid):
    _, replies = send(grid, "train.die")
    assert len(replies) == 6
    assert [reply.metadata.src_node_id for reply in replies if reply.has_error()] == [1003]
    assert not any(reply.has_error() for reply in send(grid)[1])


def test_a_client_that_hangs_costs_no_more_than_the_timeout(grid):
    started = time.monotonic()
    _, replies = send(grid, "train.hang", timeout=2)
    assert time.monotonic() - started < 60
    assert {reply.metadata.src_node_id for reply in replies} == set(grid.get_node_ids()) - {1003}
    assert not any(reply.has_error() for reply in send(grid)[1])  # in time, by the other worker


def test_only_who_is_late_is_late_and_can_be_pulled(grid):
    content = RecordDict({"config": ConfigRecord(), "arrays": ArrayRecord()})
    messages = [Message(content, node, "train.late") for node in grid.get_node_ids()]
    replies = grid.send_and_receive(messages, timeout=1)
    assert [reply.metadata.src_node_id for reply in replies] == [*range(1001, 1006)]
    late, until = [], time.monotonic() + 30
    while not late and time.monotonic() < until:
        late = grid.pull_messages([messages[0].metadata.message_id])
    assert late[0].has_content()


def test_only_a_client_that_leaves_is_lost_and_named(grid):
    _, replies = send(grid, "train.leave")
    (error,) = (reply for reply in replies if reply.has_error())
    assert error.metadata.src_node_id == 1003
    assert error.error.reason.startswith("SystemExit: enough\n")


def test_a_client_that_raises_leaves_no_trace_in_its_state(grid):
    (before,) = send(grid, nodes=[1000])[1]
    assert send(grid, "train.trip", nodes=[1000])[1][0].has_error()
    (after,) = send(grid, nodes=[1000])[1]
    assert after.content["me"]["visits"] == before.content["me"]["visits"] + 1


def test_messages_to_one_node_are_answered_in_order(grid):
    (before,) = send(grid, nodes=[1002])[1]
    _, replies = send(grid, nodes=[1002, 1002, 1001, 1002])
    visits = [r.content["me"]["visits"] for r in replies if r.metadata.src_node_id == 1002]
    assert [visit - before.content["me"]["visits"] for visit in visits] == [1, 2, 3]


def test_push_returns_at_once_and_threads_share_the_workers(grid):
    def one_by_one(grid, kind):
        return None, [reply for (reply,) in threads.map(one(grid, kind), grid.get_node_ids())]

    def one(grid, kind):
        return lambda node: send(grid, kind, nodes=[node])[1]

    messages = [Message(RecordDict(), node, "train.boom") for node in grid.get_node_ids()]
    ids = grid.push_messages(messages)
    with ThreadPoolExecutor(6) as threads:
        both_at_work(grid, one_by_one)
    errors = []
    while len(errors) < 6:
        errors += grid.pull_messages({*ids} - {e.metadata.reply_to_message_id for e in errors})
    assert all(error.has_error() for error in errors)


def test_costs_are_learnt_but_not_from_a_cold_worker(grid):
    from fedalign.simulation.costs import Costs

    groups = [[Message(RecordDict(), node, "train")] for node in grid.get_node_ids()]
    pair, costs = groups[0] + groups[1], Costs()
    costs.learn("worker", [pair, groups[2]], [100.0, 100.0])
    assert costs.of(pair) == 2.0
    costs.learn("worker", [pair, groups[2]], [4.0, 2.0])
    assert [costs.of(group) for group in (pair, groups[2], groups[3])] == [4.0, 2.0, 2.0]
    costs.learn("worker", [pair], [8.0])
    assert costs.of(groups[0]) == 3.0  # half way to the new measurement
    sized = Costs(lambda node: node - 999)
    sized.learn("worker", [groups[0]], [9.0])
    sized.learn("worker", [groups[0] + groups[1]], [6.0])  # 1 and 2 units
    assert [sized.of(group) for group in groups[:3]] == [2.0, 4.0, 6.0]


@pytest.mark.usefixtures("ray")
def test_workers_share_a_gpu(app):
    from fedalign.simulation.workers import RayGrid

    grid = RayGrid(app, 4, resources={"num_cpus": 0, "num_gpus": 0.5})
    grid.start(ClientApp())
    told = both_at_work(grid)
    grid.close()
    assert {me["gpu"] for me in told} == {0}


@pytest.mark.usefixtures("ray")
def test_no_client_is_to_blame_for_workers_that_die_before_it(app, tmp_path, monkeypatch):
    """As when somebody kills all workers, and their successors as well."""
    import ray

    from fedalign.simulation import workers

    one = {"num_cpus": 0, "num_gpus": 1}
    grid = workers.RayGrid(app, 4, {"flag": str(tmp_path / "flag")}, resources=one)
    grid.start(ClientApp())
    introduce, killed = workers.Pool._introduce, []

    def sabotage(pool, worker):
        introduce(pool, worker)
        if len(killed) < workers.MAX_STARTS:
            ray.kill(worker)
            killed.append(worker)

    monkeypatch.setattr(workers.Pool, "_introduce", sabotage)
    _, replies = send(grid, "train.stumble", nodes=[1000])
    grid.close()
    assert len(killed) == workers.MAX_STARTS
    assert [reply.has_error() for reply in replies] == [False]


@pytest.mark.usefixtures("ray")
def test_nobody_waits_for_clients_before_the_start_or_after_the_end(app):
    from fedalign.simulation.workers import RayGrid

    grid = RayGrid(app, 4, resources={"num_cpus": 0, "num_gpus": 1})
    with pytest.raises(FedalignError, match="nobody serves the clients of a RayGrid before"):
        send(grid)
    grid.start(ClientApp())
    send(grid, nodes=[1000])
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(send, grid, "train.hang", nodes=[1003])
        time.sleep(0.1)
        grid.close()
        with pytest.raises(FedalignError, match="the grid has been closed"):
            waiting.result(10)


@pytest.mark.usefixtures("ray")
def test_what_does_not_fit_is_refused(app):
    from fedalign.simulation.workers import RayGrid

    with pytest.raises(InputError, match="does not fit; Ray has num_cpus: 2, num_gpus: 1"):
        RayGrid(app, 2, resources={"num_cpus": 1, "num_gpus": 2})
