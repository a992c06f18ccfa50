"""Nodes that come, go and die, and a SuperLink that starts again, while a run goes on."""

import json
import signal
import threading
import time

import pandas as pd
import pytest

from fedalign.deploy.local import Local
from fedalign.deploy.superlink import follow
from fedalign.runs.paths import folder_of
from fedalign.settings.config import read
from fedalign.simulation import FlowerApp, simulate

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("superlink")]
NODES = [{"partition-id": i, "num-partitions": 3} for i in range(3)]
SETTINGS = {
    "num_clients": 3,
    "evaluation.pairs": 1,
    "checkpoint_every": 1,
    "simulation.stack": 1,
    "simulation.partial_aggregation": False,
}


class Running:
    """A run on a federation of processes, followed in a thread."""

    def __init__(self, local, out, **settings):
        dotted = {key.replace("__", "."): value for key, value in settings.items()}
        self.config = read("quickstart", SETTINGS | dotted | {"out": str(out)})
        self.folder = folder_of(self.config)
        self.thread = threading.Thread(target=follow, args=(local.superlink, self.config))
        self.thread.start()

    def metrics(self):
        table = self.folder / "metrics.csv"
        return pd.read_csv(table) if table.exists() else pd.DataFrame({"round": []})

    def wait(self, so, timeout=400):
        until = time.monotonic() + timeout
        while not so():
            assert time.monotonic() < until
            assert self.thread.is_alive()
            time.sleep(0.2)

    def until(self, number):
        """Wait until a round is over."""
        self.wait(lambda: len(self.metrics()) >= number)

    def end(self):
        """Return the metrics of the run, once it is over."""
        self.thread.join(600)
        assert json.loads((self.folder / "manifest.json").read_text())["status"] == "finished"
        return self.metrics()


@pytest.fixture
def simulated(tmp_path):
    """Return the model of the same run in a simulation."""

    def simulated(config):
        out = tmp_path / "simulated"
        twin = config.model_copy(update={"out": str(out)})
        app = FlowerApp(tmp_path, "fedalign.server_app:app", "fedalign.client_app:app", {})
        simulate(app, 3, twin.run_config())
        return (folder_of(twin) / "model.safetensors").read_bytes()

    return simulated


def test_one_comes_late_one_leaves_and_comes_back(tmp_path, capsys):
    with Local(NODES, tmp_path / "logs", late=1) as local:
        run = Running(local, tmp_path, rounds=9, min_available_nodes=1)
        run.until(1)
        local.start_node(2)
        run.wait(lambda: 3 in run.metrics()["clients"].tolist())
        local.stop("node-1")
        run.wait(lambda: run.metrics()["clients"].tolist()[-1] == 2)
        local.start_node(1)
        clients = run.end()["clients"].tolist()
    assert clients[0] == 2
    assert 3 in clients
    assert 2 in clients[clients.index(3) :]
    said = capsys.readouterr().out
    for line in ("client 2 has come", "client 1 has left"):
        assert line in said


def test_a_node_that_dies_while_it_trains_is_missed(tmp_path, capsys):
    with Local(NODES, tmp_path / "logs") as local:
        run = Running(local, tmp_path, rounds=2, min_available_nodes=2, client__epochs=60)
        run.wait(lambda: "Receiving: train" in local.log("node-1"))
        time.sleep(3)
        local.kill("node-1")
        assert run.end()["clients"].tolist() == [2, 2]
    said = capsys.readouterr().out
    assert "round 1: 1 of 3 clients failed, 0 did not answer; client 1: Error: Node Unav" in said
    assert "client 1 has left" in said


def test_a_node_that_hangs_is_not_waited_for_longer_than_timeout(tmp_path, capsys):
    with Local(NODES, tmp_path / "logs") as local:
        settings = {"rounds": 1, "timeout": 40, "min_replies": 2, "client__epochs": 60}
        run = Running(local, tmp_path, **settings)
        run.wait(lambda: "Receiving: train" in local.log("node-1"))
        time.sleep(3)
        for process in local.running["node-1"].children(recursive=True):
            process.send_signal(signal.SIGSTOP)
        assert run.end()["clients"].tolist() == [2]
    assert "round 1: 0 of 3 clients failed, 1 did not answer" in capsys.readouterr().out


def test_a_superlink_that_starts_again_changes_nothing(tmp_path, simulated):
    with Local(NODES, tmp_path / "logs") as local:
        run = Running(local, tmp_path, rounds=3)
        run.until(1)
        local.running["superlink"].kill()  # itself alone, which ends what it started
        local.start_superlink()
        run.end()
    assert (run.folder / "model.safetensors").read_bytes() == simulated(run.config)


def test_a_run_whose_machine_died_goes_on_from_its_checkpoint(tmp_path, simulated, capsys):
    with Local(NODES, tmp_path / "logs") as local:
        run = Running(local, tmp_path, rounds=4)
        run.until(2)
        local.kill("superlink")  # with all that runs on its machine
        local.start_superlink()
        run.end()
    assert (run.folder / "model.safetensors").read_bytes() == simulated(run.config)
    (after,) = json.loads((run.folder / "manifest.json").read_text())["resumed_after"]
    assert after in (2, 3)
    said = capsys.readouterr().out
    assert "the run was lost; submitting it again" in said
    assert f"(resumed after round {after})" in said
