"""A sweep over the two nodes of a Ray cluster, both on this machine: stopped, gone on, bereaved."""

import csv
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
import yaml

from fedalign.settings.registry import HOME

SWEEP = {
    "rounds": 20,
    "num_clients": 4,
    "partition": "my_rolling:Rolling",
    "sweep": {
        "base": "quickstart",
        "grid": {"strategy": ["fedavg", "fedpfn", "fedpnu"]},
        "seeds": 2,
    },
}
PART = """
import numpy as np
class Rolling:
    def split(self, labels, num_clients, rng):
        return np.array_split(np.roll(np.arange(len(labels)), 50), num_clients)
"""
CLOCK = {"seconds", "cpu_seconds", "peak_memory"}
PATIENCE = 300  # seconds

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("ray")]


@pytest.fixture
def ray_cluster(monkeypatch):
    """Two nodes with two CPUs each."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster_utils = pytest.importorskip("ray.cluster_utils")
    node = {"num_cpus": 2, "object_store_memory": 80_000_000}
    # Ray replaces 127.0.0.1 by an address that other machines can reach.
    head = {"include_dashboard": False, "node_ip_address": "127.0.0.2"}
    made = cluster_utils.Cluster(initialize_head=True, head_node_args=node | head)
    made.second = made.add_node(node_ip_address="127.0.0.3", **node)
    yield made
    made.shutdown()


@pytest.fixture
def begin(tmp_path):
    """Start the sweep in a folder with a module of the user's."""
    (tmp_path / "my_rolling.py").write_text(PART)
    (tmp_path / "six.yaml").write_text(yaml.safe_dump(SWEEP))

    def begin(*words):
        code = "import sys; sys.argv[0] = 'fedalign'; from fedalign.cli import main; main()"
        return subprocess.Popen(
            [sys.executable, "-c", code, "sweep", "six.yaml", *words],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(HOME)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return begin


def wait_for(found):
    end = time.monotonic() + PATIENCE
    while not (what := found()):
        assert time.monotonic() < end
        time.sleep(0.1)
    return what


def rounds(folder):
    return [file for file in folder.glob("*/metrics.csv") if file.read_text().count("\n") > 1]


def results(folder):
    """Return all that the runs of a folder have found, by file, without what clocks say."""
    found = {}
    for file in [*folder.glob("*-*/*.csv"), *folder.glob("*-*/model.safetensors")]:
        name = file.relative_to(folder).as_posix()
        found[name] = file.read_bytes()
        if file.name == "metrics.csv":
            rows = csv.DictReader(file.read_text().splitlines())
            found[name] = [{k: v for k, v in row.items() if k not in CLOCK} for row in rows]
    return found


def test_a_sweep_on_two_nodes_is_stopped_and_goes_on_with_the_bits_of_local_jobs(
    ray_cluster, begin, tmp_path
):
    command = ("--address", ray_cluster.address, "--out", "there")
    first = begin(*command)
    wait_for(lambda: rounds(tmp_path / "there"))
    first.send_signal(signal.SIGINT)
    said, errors = first.communicate(timeout=PATIENCE)
    assert first.returncode == 130, errors
    assert "6 runs, 0 of them finished; running 2 at a time on 2 nodes" in said
    assert "runs stop; Ctrl-C again does not wait" in errors
    assert f"to go on: fedalign sweep six.yaml --address {ray_cluster.address}" in errors
    statuses = [file.read_text() for file in (tmp_path / "there").glob("*-*/manifest.json")]
    assert any('"status": "stopped"' in text for text in statuses)
    again = begin(*command)
    said, errors = again.communicate(timeout=PATIENCE)
    assert again.returncode == 0, errors
    local = begin("--jobs", "2", "--out", "here")
    _, errors = local.communicate(timeout=PATIENCE)
    assert local.returncode == 0, errors
    here, there = results(tmp_path / "here"), results(tmp_path / "there")
    assert len(here) >= 6 * 4
    assert here == there
    assert not list((tmp_path / "there").glob(".fedalign-*"))


def serving(folder):
    """Return the processes that make runs of a command that was given in a folder."""
    found = psutil.process_iter(["cmdline", "cwd"])
    mine = [own for own in found if own.info["cwd"] == str(folder)]
    return [own for own in mine if "fedalign.runs.worker" in " ".join(own.info["cmdline"])]


def test_what_dies_is_named_and_the_rest_goes_on(ray_cluster, begin, tmp_path):
    command = ("--address", ray_cluster.address, "rounds=60")
    first = begin(*command)
    wait_for(lambda: len(rounds(tmp_path / "runs")) == 2)
    victim = serving(tmp_path)[0]
    psutil.Process(victim.ppid()).kill()  # the actor
    wait_for(lambda: not victim.is_running())  # its process does not go on alone
    wait_for(lambda: len(rounds(tmp_path / "runs")) >= 4)
    ray_cluster.remove_node(ray_cluster.second, allow_graceful=False)
    said, errors = first.communicate(timeout=PATIENCE)
    assert first.returncode == 1, errors
    failed = [line for line in said.splitlines() if "failed: its job on node" in line]
    assert 1 <= len(failed) <= 2, said
    assert "error: " + f"{len(failed)} of 6 runs failed; the same command tries" in errors
    assert "raylet" not in said + errors
    again = begin(*command)
    said, errors = again.communicate(timeout=PATIENCE)
    assert again.returncode == 0, errors
    assert f"6 runs, {6 - len(failed)} of them finished; running 1 at a time on 1 node" in said
