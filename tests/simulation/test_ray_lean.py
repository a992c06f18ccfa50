"""Ray starts without helpers that a simulation does not need; what workers print is shown."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from ray._private.node import Node

import fedalign
from fedalign.simulation import ray_lean
from fedalign.simulation.ray_lean import start_ray
from fedalign.simulation.ray_output import WorkerOutput, workers_heard

HELPERS = ("monitor.py", "dashboard.py", "Agent")


@pytest.fixture
def started(monkeypatch):
    """Return how Ray was started, and how many nodes it asked for a helper."""
    found = {"nodes": 1}

    def init(**options):
        node = Node.__new__(Node)
        node._logs_dir = "/logs"
        lean = Node.start_monitor.__module__ == ray_lean.__name__
        for _ in range(found.pop("nodes", 1) * lean):
            node.start_monitor()
        found.clear()
        found.update(options, lean=lean)

    monkeypatch.setattr(ray_lean.ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray_lean.ray, "init", init)
    return found


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ray_lean.VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("ray")
def test_no_helper_runs():
    words = []
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):  # it may end meanwhile
            words.append(" ".join(child.cmdline()))
    assert any("raylet" in line for line in words)
    assert [line for line in words if any(name in line for name in HELPERS)] == []


def test_logs_are_for_us_to_print(started):
    assert start_ray({"num_cpus": 3}) == Path("/logs")
    assert started == {"num_cpus": 3, "log_to_driver": False, "lean": True}


@pytest.mark.parametrize("need", ray_lean.NEEDS)
def test_who_asks_for_a_helper_gets_it(need, started):
    assert start_ray({need: "yes"}) is None
    assert started == {need: "yes", "lean": False}


def test_uv_needs_a_runtime_environment(started, monkeypatch):
    monkeypatch.setenv("UV", "/bin/uv")
    assert start_ray({}) is None
    assert started == {"lean": False}


def test_if_it_cannot_start_without_helpers_it_starts_with_them(started, monkeypatch):
    started["nodes"] = 0
    assert start_ray({"num_cpus": 1}) is None
    assert started == {"num_cpus": 1, "lean": False}
    monkeypatch.setattr(ray_lean, "HELPERS", ("start_what_no_ray_has",))
    assert start_ray({"num_cpus": 2}) is None
    assert started == {"num_cpus": 2, "lean": False}


def test_the_scheduler_finds_that_the_ports_of_its_agents_are_not_in_use(tmp_path):
    agent = f"python agent.py --session-dir={tmp_path} --node-id=ab --port=1"
    assert ray_lean._replaced(f"--runtime_env_agent_command={agent}").endswith("=cat")
    assert (tmp_path / "runtime_env_agent_port_ab").read_text() == "-1"
    assert ray_lean._replaced("--head") == "--head"


def test_whole_lines_of_workers_are_printed_once(tmp_path, capsys):
    out, err = tmp_path / "worker-1-ffffffff-17.out", tmp_path / "worker-1-ffffffff-17.err"
    other = tmp_path / "python-core-worker-1_17.log"
    with workers_heard(tmp_path):
        out.write_text(":job_id:01\n:actor_name:Worker\none\ntw")
        err.write_text("bad\n")
        other.write_text("not for users\n")
        output = WorkerOutput(tmp_path)
        output.forward()
        assert capsys.readouterr() == ("(Worker pid=17) one\n", "(Worker pid=17) bad\n")
        output.forward()
        assert capsys.readouterr().err == ""
        out.write_text(":job_id:01\n:actor_name:Worker\none\ntwo\n")
        output.forward()
    assert "(Worker pid=17) two\n" in capsys.readouterr().out


SPEAKING = """
import sys
from flwr.app import Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import ServerApp

app, server = ClientApp(), ServerApp()

@app.train()
def train(message, context):
    print("I am", context.node_config["partition-id"])
    print("trouble", file=sys.stderr)
    return Message(RecordDict(), reply_to=message)

@server.main()
def main(grid, context):
    grid.send_and_receive([Message(RecordDict(), node, "train") for node in grid.get_node_ids()])
    print("over", flush=True)
    sys.stdin.read()
"""
RUN = """
import sys
from pathlib import Path
from fedalign.simulation import FlowerApp, simulate
app = FlowerApp(Path.cwd(), "speaking:server", "speaking:app", {})
simulate(app, 3, {}, backend="ray")
"""


@pytest.fixture
def run(tmp_path):
    """Return a process that has run an app on Ray, and waits to be let go."""
    (tmp_path / "speaking.py").write_text(SPEAKING)
    with subprocess.Popen(
        [sys.executable, "-c", RUN],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(fedalign.__file__).parents[1])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        yield process


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
def test_nothing_that_clients_print_is_lost(run):
    said, logged = run.communicate(timeout=120)
    assert run.returncode == 0, logged
    assert [said.count(f"I am {number}\n") for number in range(3)] == [1, 1, 1]
    assert logged.count("trouble") == 3


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_no_process_outlives_a_killed_run(run, number):
    while run.stdout.readline().strip() != "over":
        assert run.poll() is None
    children = psutil.Process(run.pid).children(recursive=True)
    assert len(children) >= 4
    run.send_signal(number)
    assert psutil.wait_procs(children, timeout=60)[1] == []
