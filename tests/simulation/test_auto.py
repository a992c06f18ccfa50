"""The default engine: in this process first, and on workers beside it once that pays."""

from __future__ import annotations

import os
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from flwr.app import Message, RecordDict

from fedalign.simulation import auto
from fedalign.simulation.app import load_component
from fedalign.simulation.auto import AutoGrid, needs_workers
from fedalign.simulation.ray_setup import count_visible_gpus, full_backend_config
from tests.doubles import one_file_app

CLIENT = """
import os, time
from flwr.app import Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

app = ClientApp()

@app.train()
def train(message, context):
    time.sleep(0.05)
    visits = context.state["me"]["visits"] + 1 if "me" in context.state else 1
    context.state["me"] = MetricRecord({"visits": visits})
    me = MetricRecord({"visits": visits, "pid": os.getpid()})
    return Message(RecordDict({"me": me}), reply_to=message)
"""


@pytest.fixture
def grid(tmp_path, monkeypatch):
    app = one_file_app(tmp_path, "waiting", CLIENT)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(auto, "WORTH", 0.1)
    grid = AutoGrid(app, load_component(app.client), 6, {}, 7, full_backend_config({}), 1)
    yield grid
    grid.close()


def told(grid):
    messages = [Message(RecordDict(), node, "train") for node in grid.get_node_ids()]
    return [reply.content["me"] for reply in grid.send_and_receive(messages)]


@pytest.mark.usefixtures("ray")
def test_workers_join_and_states_follow(grid):
    before, visits, until = os.environ.get("PYTHONPATH"), 0, time.monotonic() + 60
    pids = {os.getpid()}
    while len(pids) < 2 and time.monotonic() < until:
        came, visits = told(grid), visits + 1
        assert [me["visits"] for me in came] == [visits] * 6
        pids |= {me["pid"] for me in came}
    assert len(pids) == grid.num_workers == 2
    grid.close()
    assert os.environ.get("PYTHONPATH") == before


def test_if_ray_cannot_start_all_goes_on_here(grid, monkeypatch, caplog):
    monkeypatch.setattr("fedalign.simulation.ray_cluster.ray_for", lambda *_: 1 / 0)
    while "no Ray workers, so all clients run in this process" not in caplog.text:
        assert {me["pid"] for me in told(grid)} == {os.getpid()}
    assert grid.num_workers == 1


def test_one_client_at_a_time_is_no_work_to_share(grid):
    for node in grid.get_node_ids() * 2:
        grid.send_and_receive([Message(RecordDict(), node, "train")])
    assert grid._hiring is None


@pytest.mark.parametrize(
    ("given", "gpus", "needed", "most"),
    [
        ({}, 0, False, 3),
        ({}, 1, False, 0),  # clients may use it
        ({"client_resources": {"num_gpus": 0}}, 1, False, 3),
        ({"client_resources": {"num_cpus": 2}}, 0, False, 1),
        ({"client_resources": {"num_cpus": 9}}, 0, False, 0),
        ({"client_resources": {"num_gpus": 1}}, 1, False, 0),
        ({"client_resources": {"num_gpus": 1}}, 2, True, 0),
        ({"client_resources": {"num_gpus": 0.5}}, 1, True, 0),
        ({"init_args": {"address": "auto"}}, 0, True, None),
    ],
)
def test_where_clients_run(monkeypatch, given, gpus, needed, most):
    monkeypatch.setattr(auto, "count_visible_gpus", lambda: gpus)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    config = full_backend_config(given)
    assert needs_workers(config) is needed
    assert most is None or auto._most(config, 10, given) == most


@pytest.mark.parametrize(
    ("visible", "count"), [(None, 2), ("", 0), ("-1", 0), ("1", 1), ("0,1,2", 2)]
)
def test_gpus_are_counted_without_using_them(monkeypatch, visible, count):
    monkeypatch.setattr(Path, "glob", lambda *_: iter(["nvidia0", "nvidia1"]))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert count_visible_gpus() == count


def test_the_thread_that_starts_ray_lives_as_long_as_the_grid(grid, monkeypatch):
    """Linux kills Ray's processes when the thread ends that started them (PR_SET_PDEATHSIG)."""
    pytest.importorskip("ray")
    alive, pool = [], SimpleNamespace(workers=[1], start=lambda _: None)
    pool.close = lambda: alive.append(grid._hiring.is_alive())
    monkeypatch.setattr("fedalign.simulation.ray_cluster.ray_for", lambda *_: nullcontext())
    monkeypatch.setattr("fedalign.simulation.workers.Pool", lambda *_: pool)
    monkeypatch.setattr(auto, "WORTH", 0.0)
    told(grid)
    assert grid._hired.wait(60)
    grid.close()
    grid._hiring.join(60)
    assert alive == [True]
    assert not grid._hiring.is_alive()
