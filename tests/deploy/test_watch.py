"""Nodes that end by themselves: started again, or the end of the wait for their run."""

import signal
import socket
import time

import psutil
import pytest

from fedalign.deploy.processes import PORTS, free_port
from fedalign.deploy.watch import STARTS, Watch
from fedalign.errors import FedalignError


class Shells:
    """Nodes that are shells; node-1's first `failures` starts end with exit code 7."""

    def __init__(self, failures):
        self.failures, self.started, self.running = failures, [], {}

    def start(self, name):
        self.started.append(name)
        fails = name == "node-1" and self.started.count(name) <= self.failures
        self.running[name] = psutil.Popen(["sh", "-c", "exit 7" if fails else "exec sleep 60"])

    def watch(self):
        for name in ("node-0", "node-1"):
            self.start(name)
        return Watch(lambda: dict(self.running), self.start, lambda name: f"{name}'s port is taken")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.running.values():
            if process.poll() is None:
                process.kill()
                process.wait()


def test_a_node_that_ends_is_started_again(capsys):
    before = signal.getsignal(signal.SIGTERM)
    with Shells(STARTS - 1) as shells, shells.watch():
        until = time.monotonic() + 60
        while len(shells.started) < STARTS + 1 and time.monotonic() < until:
            time.sleep(0.05)
        assert shells.started == ["node-0"] + STARTS * ["node-1"]
    line = "node-1 ended with exit code 7: node-1's port is taken; starting it again\n"
    assert capsys.readouterr().err == (STARTS - 1) * line
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_node_that_always_ends_ends_the_wait():
    with (
        Shells(STARTS) as shells,
        pytest.raises(FedalignError, match=r"^node-1 ended with exit code 7: node-1's port is"),
        shells.watch(),
    ):
        time.sleep(60)
    assert shells.started.count("node-1") == STARTS


def test_sigterm_ends_the_wait():
    with Shells(0) as shells, pytest.raises(SystemExit, match="143"), shells.watch():
        signal.raise_signal(signal.SIGTERM)


def test_a_free_port_is_free():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", port := free_port()))
    assert port in PORTS
