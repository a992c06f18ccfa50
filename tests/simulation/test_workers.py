"""The engine on Ray workers: replies as inline, and nothing hangs when clients misbehave."""

from __future__ import annotations

import time

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

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

@app.train("boom")
def boom(message, context):
    raise ValueError("a bug in the client")

@app.train("die")
def die(message, context):
    if context.node_config["partition-id"] == 3:
        os._exit(9)
    return train(message, context)

@app.train("hang")
def hang(message, context):
    if context.node_config["partition-id"] == 3:
        time.sleep(600)
    return train(message, context)
"""


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    return one_file_app(tmp_path_factory.mktemp("app"), "echoing", CLIENT)


@pytest.fixture(scope="module")
def grid(ray, app):  # noqa: ARG001
    from fedalign.simulation.workers import RayGrid

    grid = RayGrid(app, 6, {"key": 1}, run_id=7)
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


def test_one_call_a_worker_and_both_work(grid):
    _, replies = send(grid)
    assert len({reply.content["me"]["pid"] for reply in replies}) == 2
    assert not any(reply.content["me"]["torch"] for reply in replies)  # unless the app wants it


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
    assert 1003 not in {reply.metadata.src_node_id for reply in replies}
    assert not any(reply.has_error() for reply in send(grid)[1])


def test_the_longest_go_first_and_to_whoever_has_least_to_do(grid):
    groups = [[Message(RecordDict(), node, "train")] for node in grid.get_node_ids()]
    costs = grid._costs._seconds = dict(zip(grid.get_node_ids(), [1, 5, 1, 4, 1, 2], strict=True))
    shares = [[group[0].metadata.dst_node_id for group in share] for share in grid._deal(groups)]
    assert shares == [[1001, 1000, 1002], [1003, 1005, 1004]]
    pairs = [groups[0] + groups[1], groups[2] + groups[3], groups[4] + groups[5]]  # 6, 5, 3
    assert grid._deal(pairs) == [[pairs[0]], [pairs[1], pairs[2]]]
    costs.clear()


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
    told = [reply.content["me"] for reply in send(grid)[1]]
    grid.close()
    assert len({me["pid"] for me in told}) == 2
    assert {me["gpu"] for me in told} == {0}


@pytest.mark.usefixtures("ray")
def test_what_does_not_fit_is_refused(app):
    from fedalign.errors import InputError
    from fedalign.simulation.workers import RayGrid

    with pytest.raises(InputError, match="does not fit; Ray has num_cpus: 2, num_gpus: 1"):
        RayGrid(app, 2, resources={"num_cpus": 1, "num_gpus": 2})
