"""A Ray cluster of two nodes, both on this machine: the same bits as in one process."""

import shutil
import subprocess
import threading

import pytest
from flwr.app import Message, RecordDict
from safetensors.numpy import load_file

from fedalign.errors import FedalignError, InputError
from fedalign.settings.registry import HOME
from fedalign.simulation import FlowerApp, ray_cluster, simulate
from fedalign.simulation.grid import LocalGrid

SCRIPT = """
import sys

import ray
from ray.cluster_utils import Cluster

from fedalign.settings.config import read
from fedalign.settings.registry import HOME
from fedalign.runs.folder import folder_of
from fedalign.simulation import FlowerApp, simulate
from fedalign.simulation.workers import RayGrid

SETTINGS = {"num_clients": 6, "rounds": 2, "model.width": 16, "data.max_examples": 300,
            "partition": "iid", "evaluation.alphas": 0}


def run(**more):
    config = read(None, SETTINGS | {key.replace("__", "."): value for key, value in more.items()})
    engine = config.simulation
    app = FlowerApp(HOME, "fedalign.server_app:app", "fedalign.client_app:app", {})
    simulate(app, config.num_clients, config.run_config(), backend=engine.backend,
             backend_config=engine.backend_config("auto"))
    print("folder", folder_of(config))


def tell(grid, client_app):
    start(grid, client_app)
    for worker in grid._pool.workers:
        node = worker.__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id())
        print("node", ray.get(node))


start, RayGrid.start = RayGrid.start, tell
# Ray replaces 127.0.0.1 by an address that other machines can reach.
head = {"num_cpus": 1, "include_dashboard": False, "node_ip_address": "127.0.0.2"}
cluster = Cluster(initialize_head=True, head_node_args=head)
cluster.add_node(num_cpus=1, node_ip_address="127.0.0.2")
try:
    run(out="there", simulation__backend="ray", simulation__address=cluster.address)
    run(out="here")
finally:
    cluster.shutdown()
"""


@pytest.mark.xdist_group("ray")
@pytest.mark.slow
def test_two_nodes_give_the_same_bits(python, tmp_path):
    done = python(SCRIPT)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines() if line.strip()]
    nodes = [line[1] for line in lines if line[0] == "node"]
    assert len(nodes) == len(set(nodes)) == 2
    folders = [tmp_path / line[1] for line in lines if line[0] == "folder"]
    there, here = (load_file(folder / "model.safetensors") for folder in folders)
    assert all((there[name] == here[name]).all() for name in here)


APP = FlowerApp(HOME, "fedalign.server_app:app", "fedalign.client_app:app", {})


def start(monkeypatch, backend, error=None, **init_args):
    def init(**_):
        raise error

    monkeypatch.setattr("ray.is_initialized", lambda: False)  # even if other tests share one
    monkeypatch.setattr("ray.init", init)
    simulate(APP, 2, {}, backend=backend, backend_config={"init_args": init_args})


@pytest.mark.parametrize("backend", ["auto", "ray", "flower"])
def test_a_cluster_that_cannot_be_joined_is_named(monkeypatch, backend):
    with pytest.raises(InputError, match=r"no Ray cluster answers at '127\.0\.0\.1:9'"):
        start(monkeypatch, backend, address="127.0.0.1:9")
    with pytest.raises(InputError, match=r"simulation\.address: 'auto': ConnectionError: Could"):
        start(monkeypatch, backend, ConnectionError("Could not find any"), address="auto")


@pytest.mark.parametrize("backend", ["ray", "flower"])
def test_a_ray_that_does_not_start_is_one_line(monkeypatch, backend):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    line = r"^Ray did not start: Exception: The current node"
    with pytest.raises(FedalignError, match=line) as found:
        start(monkeypatch, backend, Exception("The current node timed out during startup."))
    assert found.value.__cause__ is None
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with pytest.raises(InputError, match=r"^RAY_ADDRESS: '127\.0\.0\.1:9' names a Ray cluster"):
        start(monkeypatch, backend)
    monkeypatch.setattr("fedalign.simulation.ray_setup.find_spec", lambda _: None)
    with pytest.raises(InputError, match="Ray is not installed: pip install"):
        start(monkeypatch, backend)


@pytest.mark.parametrize("name", ["raylet", "gcs_server"])
def test_a_head_that_dies_ends_what_waits_for_clients(name, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_cluster, "PAUSE", 0.01)
    program = shutil.copy(shutil.which("sleep"), tmp_path / name)
    grid = LocalGrid(2)  # serves nobody
    with subprocess.Popen([program, "60"]) as process:
        threading.Thread(target=ray_cluster.watch_head, args=[grid.schedule]).start()
        threading.Timer(0.2, process.kill).start()
        for _ in range(2):  # also what is sent afterwards
            message = Message(RecordDict(), 1000, "train")
            with pytest.raises(FedalignError, match=f"^Ray's {name} has died"):
                grid.send_and_receive([message])
        with pytest.raises(FedalignError, match=f"^Ray's {name} has died"):
            grid.pull_messages(["1"])
