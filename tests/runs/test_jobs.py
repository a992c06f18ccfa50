"""Runs in processes that take one after another; in place of runs, a few lines of Python."""

import os
import sys
import time
from contextlib import closing, suppress
from itertools import count
from textwrap import indent

import pytest

from fedalign.runs import jobs, processes
from fedalign.runs.jobs import run_all
from fedalign.runs.processes import Processes
from fedalign.settings.config import read

FAKE = """
import json, os, pathlib, signal, sys, time
with os.fdopen(int(sys.argv[1]), "w") as answers:
    for line in sys.stdin:
        config = json.loads(line)
        seed, out = config["seed"], pathlib.Path(config["out"])
        answer = {"error": None, "warm": True}
        (out / f"{seed}.pid").write_text(str(os.getpid()))
BODY
        print(json.dumps(answer), file=answers, flush=True)
        if not answer["warm"]: break
"""


@pytest.fixture
def fake(monkeypatch, tmp_path):
    def fake(body, count):
        code = FAKE.replace("BODY", indent(body, " " * 8))
        monkeypatch.setattr(processes, "SERVE", (sys.executable, "-c", code))
        return [read(None, {"seed": seed, "out": str(tmp_path)}) for seed in range(count)]

    return fake


def pids(folder, seeds):
    return [int((folder / f"{seed}.pid").read_text()) for seed in seeds]


def gone(pid):
    with suppress(ProcessLookupError):
        os.kill(pid, 0)
        return False
    return True


def test_runs_share_a_process_until_one_fails_and_a_failure_is_told(fake, tmp_path):
    body = (
        "if seed == 1: answer = {'error': 'nothing to eat', 'warm': False}\n"
        "if seed == 2: os.kill(os.getpid(), 9)\n"
        "if seed == 3: 1 / 0\n"
        "if seed == 4: sys.exit(7)\n"
        "if seed == 5: sys.exit('noise\\nerror: half a word')\n"
    )
    found = {config.seed: error for config, error in run_all(fake(body, 8), Processes(1))}
    assert found == {
        0: None,
        1: "nothing to eat",
        2: "killed by SIGKILL",
        3: "ZeroDivisionError: division by zero",
        4: "exit code 7",
        5: "half a word",
        6: None,
        7: None,
    }
    served = pids(tmp_path, range(8))
    assert served[0] == served[1]
    assert served[6] == served[7]
    assert len(set(served)) == 6
    assert all(map(gone, served))


def test_no_more_than_so_many_run_at_a_time(fake, tmp_path):
    body = (
        "mine = out / f'{seed}.on'; mine.touch()\n"
        "(out / f'{seed}.seen').write_text(str(len(list(out.glob('*.on')))))\n"
        "time.sleep(0.2); mine.unlink()"
    )
    watched = []
    outcomes = run_all(
        fake(body, 5), Processes(2), watch=lambda configs: watched.append(len(configs))
    )
    assert [error for _, error in outcomes] == [None] * 5
    assert {int(path.read_text()) for path in tmp_path.glob("*.seen")} <= {1, 2}
    assert set(watched) <= {1, 2}
    assert len(set(pids(tmp_path, range(5)))) == 2


def test_a_run_that_finishes_no_round_is_given_up_and_the_others_go_on(fake, tmp_path):
    body = (
        "while seed == 1: time.sleep(1)\n"
        "folder = FOLDERS[seed]; os.makedirs(folder)\n"
        "for _ in range(6 if seed == 0 else 0):\n"
        "    time.sleep(0.25)\n"
        "    with open(folder + '/metrics.csv', 'a') as file: file.write('1')\n"
    )
    configs = fake("pass", 3)
    fake(body.replace("FOLDERS", repr([str(config.folder) for config in configs])), 3)
    began = time.monotonic()
    found = {config.seed: error for config, error in run_all(configs, Processes(2), stalled=1.0)}
    assert found == {0: None, 1: "no round was finished in 1 seconds", 2: None}
    assert time.monotonic() - began > 1.5
    assert all(map(gone, pids(tmp_path, range(3))))


@pytest.mark.parametrize("deaf", [False, True])
def test_whoever_stops_leaves_no_process_behind(fake, tmp_path, deaf, monkeypatch):
    monkeypatch.setattr(jobs, "GRACE", 0.5 if deaf else 60.0)
    body = (
        ("signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" if deaf else "")
        + "(out / f'{seed}.ready').touch()\n"
        "while seed or not (out / '1.ready').exists(): time.sleep(0.01)"
    )
    configs = fake(body, 2)
    with closing(run_all(configs, Processes(2))) as outcomes:
        assert next(outcomes) == (configs[0], None)
    assert all(map(gone, pids(tmp_path, range(2))))


def test_a_second_ctrl_c_does_not_wait(fake, tmp_path, monkeypatch):
    """The first one comes while runs go on, the second while they are given time to stop."""
    body = "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n(out / 'ready').touch()\ntime.sleep(600)"
    configs, calls, usual = fake(body, 1), count(), processes.subprocess.Popen.wait

    def press(_):
        if (tmp_path / "ready").exists():
            raise KeyboardInterrupt

    def interrupted(self, timeout=None):
        if next(calls) == 0:
            raise KeyboardInterrupt
        return usual(self, timeout)

    monkeypatch.setattr(processes.subprocess.Popen, "wait", interrupted)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        list(run_all(configs, Processes(1), watch=press))
    assert time.monotonic() - began < 30
    assert gone(pids(tmp_path, [0])[0])


class Fake:
    """A worker without a process, whose runs end at once, or never."""

    def __init__(self, place, log, begun):
        self.place, self.log, self._ends, self.begun = place, log, os.pipe(), begun

    def fileno(self):
        return self._ends[0]

    def give(self, config):
        self.log.append((self.place, config.seed))
        if self.begun and config.seed != 9:
            os.write(self._ends[1], b"x")

    def take(self):
        os.read(self._ends[0], 1)
        return None, True

    def stop(self):
        self.log.append((self.place, "stop"))

    def join(self, seconds):
        self.log.append((self.place, "join", seconds > 50))

    def end(self):
        self.log.append((self.place, "end"))
        self.begun = False


class FakeCrew:
    """A crew on a machine with fewer places than jobs; a worker waits until there is a place."""

    jobs, place = 2, ""

    def __init__(self, places):
        self.log, self.places, self.hired, self.looks = [], places, [], count()

    def hire(self, _):
        worker = Fake("ab"[len(self.hired)], self.log, len(self.hired) < self.places)
        self.hired.append(worker)
        return worker

    def look(self, _):
        """Give a worker that waits the place of one that has ended, after a while."""
        late = self.hired[-1]
        if not late.begun and ("a", "end") in self.log and next(self.looks) == 10:
            late.begun = True
            os.write(late._ends[1], b"x")


def test_who_waits_for_a_place_gets_that_of_a_worker_that_is_done_and_does_not_stall(monkeypatch):
    monkeypatch.setattr(jobs, "TICK", 0.01)
    crew, configs = FakeCrew(places=1), [read(None, {"seed": seed}) for seed in range(3)]
    found = [(own.seed, why) for own, why in run_all(configs, crew, 0.05, crew.look)]
    assert found == [(0, None), (2, None), (1, None)]
    assert crew.log[:3] == [("a", 0), ("b", 1), ("a", 2)]
    assert [entry for entry in crew.log if len(entry) > 2 or entry[1] == "stop"] == []


def test_workers_of_any_kind_are_stopped_and_waited_for_before_they_end():
    crew, configs = FakeCrew(places=2), [read(None, {"seed": seed}) for seed in (9, 0, 9, 1)]
    with closing(run_all(configs, crew)) as outcomes:
        next(outcomes)
    assert crew.log == [
        *[("a", 9), ("b", 0), ("a", "stop"), ("b", "stop")],
        *[("a", "join", True), ("a", "end"), ("b", "end")],
    ]
