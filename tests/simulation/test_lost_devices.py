"""A GPU that fails ends its process, and costs the client that broke it and no other."""

import pytest
import torch
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.clientapp import ClientApp

from clients.local import Local
from fedalign.console import guarded
from fedalign.errors import DeviceError, is_device_error
from fedalign.messages.groups import GroupRequest
from fedalign.messages.partial_sums import clients_in
from fedalign.simulation.app import load_component
from fedalign.simulation.faults import MAX_FAILED, Fault, blame
from fedalign.simulation.inline import InlineGrid
from fedalign.simulation.schedule import Batch, Task
from tests.doubles import one_file_app

# As a GPU: what has failed once fails in this process for good.
CLIENT = """
import os
import numpy as np
from flwr.app import Array, ArrayRecord, MetricRecord
from fedalign.messages.groups import GroupApp, GroupReplies
from fedalign.messages.records import train_reply

class AcceleratorError(RuntimeError):
    pass

broken = False

def compute(message, contexts):
    global broken
    bad = message.content["config"]["bad"]
    ours = {context.node_config["partition-id"] for context in contexts}
    if message.content["config"]["dies"] and ours & set(bad):
        os._exit(9)
    broken = broken or bool(ours & set(bad))
    if broken:
        raise AcceleratorError("CUDA error: misaligned address\\nSearch for `cudaError`")

def answer(message, context):
    visits = context.state["me"]["visits"] + 1 if "me" in context.state else 1
    context.state["me"] = MetricRecord({"visits": visits})
    partition = context.node_config["partition-id"]
    arrays = ArrayRecord({"w": Array(np.full(2, partition, np.float32))})
    return train_reply(message, arrays, 1, {"visits": visits, "pid": os.getpid()})

class Together(GroupApp):
    def train_many(self, messages, contexts, request):
        replies = [answer(message, context) for message, context in zip(messages, contexts)]
        compute(messages[0], contexts)
        return GroupReplies(replies)

def train(message, context):
    reply = answer(message, context)
    compute(message, [context])
    return reply

app = Together()
app.train()(train)
"""


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    return one_file_app(tmp_path_factory.mktemp("app"), "breaking", CLIENT)


@pytest.fixture(scope="module")
def grid(ray, app):  # noqa: ARG001
    from fedalign.simulation.workers import RayGrid

    grid = RayGrid(app, 9, run_id=7)
    grid.start(ClientApp())
    yield grid
    grid.close()


def send(grid, bad=(), group=1, dies=False, sums=False):
    config = ConfigRecord({"bad": list(bad), "dies": dies})
    content = RecordDict({"config": config})
    messages = [Message(content, node, "train") for node in grid.get_node_ids()]
    came = grid.exchange(messages, GroupRequest(group, sums), group, None)
    grid.keep_states(came.states)
    return came


def failed(came):
    return [r.metadata.src_node_id - 1000 for r in came.replies if r.has_error()]


def visits(came):
    return {r.content["metrics"]["visits"] for r in came.replies if r.has_content()}


SLOW = [([0, 8], 3, False), ([4], 1, False), ([4], 9, True), ([0, 8], 1, True)]


@pytest.mark.parametrize(
    ("bad", "group", "dies"),
    [
        ([4], 3, False),
        *(pytest.param(*more, marks=pytest.mark.slow) for more in SLOW),
    ],
)
def test_only_the_clients_that_break_it_fail(grid, bad, group, dies):
    grid.keep_states({node: RecordDict() for node in grid.get_node_ids()})
    came = send(grid, bad, group, dies)
    assert len(came.replies) == 9
    assert failed(came) == bad
    assert visits(came) == {1}  # nobody's state is that of a call that was lost
    errors = [reply.error.reason for reply in came.replies if reply.has_error()]
    told = "the worker died: " if dies else "AcceleratorError: CUDA error: misaligned address ("
    assert all(reason.startswith(told) for reason in errors)
    again = "clients of a lost worker are tried again"
    alone = f"{again} one by one, which may change the last bits: {errors[0]}"
    expected = {f"{again}: {errors[0]}"} if dies else set()
    assert set(came.notes) == expected | ({alone} if group > 1 else set())
    healthy = send(grid, group=group)
    assert not failed(healthy)
    assert visits(healthy) == {1, 2}


def test_sums_go_on_without_the_client(grid):
    came = send(grid, [4], 3, sums=True)
    assert failed(came) == [4]
    assert sum(clients_in(reply) for reply in came.replies if reply.has_content()) == 8


@pytest.mark.slow
def test_if_all_fail_workers_are_not_replaced_for_ever(grid, monkeypatch):
    replaced, replace = [], type(grid._pool)._replace
    monkeypatch.setattr(
        type(grid._pool), "_replace", lambda *own: replaced.append(1) or replace(*own)
    )
    came = send(grid, range(9))
    assert failed(came) == list(range(9))
    assert len(replaced) <= grid.num_workers * (MAX_FAILED + 1)
    reasons = [reply.error.reason for reply in came.replies]
    assert any(reason.startswith("not tried, since 3 clients failed") for reason in reasons)
    assert all("AcceleratorError: CUDA error: misaligned address" in reason for reason in reasons)
    assert not failed(send(grid))


def messages(*nodes):
    InlineGrid(None, 1)  # Flower wants to know whose messages they are
    made = [Message(RecordDict(), node, "train") for node in nodes]
    for message in made:
        message.metadata.__dict__["_message_id"] = str(message.metadata.dst_node_id)
    return made


DIED = Fault("it died")


def lose(batch, *groups, fault=DIED):
    """Who is to blame, and who is tried again in which groups."""
    pieces, said = blame([Task(list(group), batch) for group in groups], fault)
    again = [[m.metadata.dst_node_id for m in piece] for own in pieces for piece in own]
    return [reply.metadata.src_node_id for reply in said.replies], again


def test_clients_of_a_dead_worker_keep_their_groups_before_one_is_to_blame():
    a, b, c, d = messages(1, 2, 3, 4)
    batch = Batch(GroupRequest(), None, kept=True)
    assert lose(batch, [a, b], [c, d]) == ([], [[1, 2], [3, 4]])
    assert lose(batch, [a, b]) == ([], [[1, 2]])  # the whole group once more
    assert lose(batch, [a, b]) == ([], [[1], [2]])
    assert lose(batch, [a]) == ([1], [])
    batch = Batch(GroupRequest(), None, kept=True)
    assert lose(batch, [a]) == ([], [[1]])
    assert lose(batch, [a]) == ([], [[1]])
    assert lose(batch, [a]) == ([1], [])


def test_of_a_known_group_or_client_the_others_are_not_suspected():
    a, b, c, d = messages(1, 2, 3, 4)
    batch = Batch(GroupRequest(), None, kept=True)
    assert lose(batch, [a, b], [c, d], fault=Fault("GPU", [1, 2])) == ([], [[1], [2], [3, 4]])
    assert lose(batch, [a, b], [c], [d], fault=Fault("GPU", [2])) == ([2], [[1], [3], [4]])


@pytest.mark.parametrize(
    ("error", "whether"),
    [
        (RuntimeError("CUDA error: an illegal memory access was encountered"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), True),
        (RuntimeError("The size of tensor a must match the size of tensor b"), False),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), False),
        (ValueError("CUDA error: not PyTorch's"), False),
    ],
)
def test_what_is_an_error_of_the_device(error, whether):
    assert is_device_error(error) is whether


@pytest.mark.skipif(not hasattr(torch, "AcceleratorError"), reason="an older PyTorch")
def test_pytorchs_own_error_is_one():
    assert is_device_error(torch.AcceleratorError("device-side assert triggered"))


@pytest.mark.parametrize(
    ("group", "whose"), [(1, "client 4: "), (9, "one of 9 clients (0, 1, 2, 3, 4, …): ")]
)
def test_without_workers_the_run_ends_and_names_the_client(app, group, whose):
    app.put_on_path()
    component = load_component(app.client, app.root)
    with pytest.raises(DeviceError) as caught:
        send(InlineGrid(component, 9, run_id=7), [4], group)
    component.train_many.__globals__["broken"] = False
    assert str(caught.value) == (
        f"{whose}AcceleratorError: CUDA error: misaligned address (CUDA_LAUNCH_BLOCKING=1 shows "
        "where); this process can no longer use the GPU, while simulation.backend=ray goes on "
        "without the client"
    )


def test_the_servers_own_error_is_a_line_too(capsys):
    error = RuntimeError("CUDA error: misaligned address\nSearch for `cudaError`")
    with pytest.raises(SystemExit) as ended, guarded():
        raise error
    assert ended.value.code == 1
    assert capsys.readouterr().err == (
        "error: RuntimeError: CUDA error: misaligned address (CUDA_LAUNCH_BLOCKING=1 shows where)\n"
    )
    for verbose, other in [(True, error), (False, RuntimeError("a bug"))]:
        with pytest.raises(RuntimeError, match=str(other).partition("\n")[0]), guarded(verbose):
            raise other


@pytest.mark.parametrize("overlap", [False, True])
def test_what_is_written_before_is_kept(run, tmp_path, monkeypatch, overlap):
    train, seen = Local.train, []

    def breaking(self, stack):
        seen.append(stack.server_round)
        if stack.server_round == 3:
            raise RuntimeError("CUDA error: misaligned address")
        return train(self, stack)

    monkeypatch.setattr(Local, "train", breaking)
    with pytest.raises(DeviceError, match="client 0: RuntimeError: CUDA error: misaligned"):
        run(strategy="fedavg", evaluation__overlap=overlap, simulation__stack=1)
    assert seen.count(3) == 1
    (folder,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    rows = (folder / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["round", "1", "2"]
