"""Runs in processes of their own; in place of `fedalign run`, a few lines of Python."""

import os
import sys
from contextlib import closing

import pytest

from fedalign.runs import jobs
from fedalign.runs.jobs import run_all
from fedalign.settings.config import read

FAKE = """
import os, signal, sys, time, yaml, pathlib
config = yaml.safe_load(open(sys.argv[-1]))
out = pathlib.Path(config["out"])
(out / f"{config['seed']}.pid").write_text(str(os.getpid()))
BODY
"""


@pytest.fixture
def fake(monkeypatch, tmp_path):
    def fake(body, count):
        code = FAKE.replace("BODY", body)
        monkeypatch.setattr(jobs, "RUN", (sys.executable, "-c", code))
        return [read(None, {"seed": seed, "out": str(tmp_path)}) for seed in range(count)]

    return fake


def test_each_run_is_a_process_and_a_failure_is_told(fake, tmp_path):
    body = (
        "if config['seed'] == 1: sys.exit('noise\\nerror: nothing to eat')\n"
        "if config['seed'] == 2: os.kill(os.getpid(), 9)\n"
        "if config['seed'] == 3: 1 / 0\n"
        "if config['seed'] == 4: sys.exit(7)"
    )
    found = {config.seed: error for config, error in run_all(fake(body, 6), 2)}
    assert found == {
        0: None,
        1: "nothing to eat",
        2: "killed by SIGKILL",
        3: "ZeroDivisionError: division by zero",
        4: "exit code 7",
        5: None,
    }
    assert len({(tmp_path / f"{seed}.pid").read_text() for seed in found}) == 6


def test_no_more_than_so_many_run_at_a_time(fake, tmp_path):
    body = (
        "mine = out / f\"{config['seed']}.on\"; mine.touch()\n"
        "(out / f\"{config['seed']}.seen\").write_text(str(len(list(out.glob('*.on')))))\n"
        "time.sleep(0.2); mine.unlink()"
    )
    assert [error for _, error in run_all(fake(body, 5), 2)] == [None] * 5
    assert {int(path.read_text()) for path in tmp_path.glob("*.seen")} <= {1, 2}


@pytest.mark.parametrize("deaf", [False, True])
def test_whoever_stops_leaves_no_process_behind(fake, tmp_path, deaf, monkeypatch):
    monkeypatch.setattr(jobs, "GRACE", 0.5 if deaf else 60.0)
    body = (
        ("signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" if deaf else "")
        + "(out / f\"{config['seed']}.ready\").touch()\n"
        "while config['seed'] or not (out / '1.ready').exists(): time.sleep(0.01)"
    )
    configs = fake(body, 2)
    with closing(run_all(configs, 2)) as outcomes:
        assert next(outcomes) == (configs[0], None)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "1.pid").read_text()), 0)
