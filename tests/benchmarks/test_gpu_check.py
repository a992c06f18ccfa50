"""The GPU check: its budgets, its tables, and the whole of it in small."""

import sys

import pytest


@pytest.fixture
def check(tmp_path):
    from gpu_check import Budget, Check
    from processes import JobProcesses

    processes = JobProcesses(tmp_path / "log")
    yield Check(True, Budget(60), processes, tmp_path / "tests.log")
    processes.stop()


def row(part, workload, name, *seconds, hashes=()):
    from gpu_report import Row
    from processes import Outcome

    return Row(part, workload, name, "inline", Outcome(list(seconds), hashes=list(hashes)))


def test_rounds_that_warm_up_do_not_count():
    from processes import Outcome

    outcome = Outcome()
    outcome.add({"hash": "a", "host_mb": 5.0, "accuracy": 0.5}, [9.0, 9.0, 1.0, 3.0])
    outcome.add({"hash": "b", "host_mb": 4.0}, [9.0, 2.0])
    assert outcome.milliseconds == 2000
    assert (outcome.hashes, outcome.peaks["host_mb"]) == (["a", "b"], 5.0)
    assert outcome.facts == {"accuracy": 0.5}


def test_the_table_says_what_was_aimed_at_and_whether_it_was_reached():
    from gpu_report import rounds_table

    rows = [
        row("rounds", "W2", "plain", 0.8),
        row("rounds", "W2", "inline", 0.005, hashes=["a", "a"]),
        row("rounds", "W3", "inline"),
        row("algorithms", "W2", "FedAvg", 0.010),
        row("algorithms", "W2", "FedPNU", 0.012, hashes=["a", "b"]),
    ]
    lines = rounds_table(rows)[2:]
    assert "| 5.0 | 1 | 0.006 |" in lines[1]
    assert "| yes | ≤ 6 ms: met |" in lines[1]
    assert "≤ 45 ms: not measured" in lines[2]
    assert "| 1.200 |" in lines[4]
    assert "| NO: a b | ≤ 1.15 of the first: missed |" in lines[4]
    assert "| yes | ≤ 6 ms |" in rounds_table(rows, judged=False)[3]


def test_a_part_without_time_is_skipped_and_the_others_are_named(check):
    from gpu_check import PARTS, Budget, report, run_parts

    check.budget = Budget(0)
    run_parts(check, ["rounds"])
    assert "rounds: no time left" in check.skipped
    assert len(check.skipped) == len(PARTS)
    lines = report(check).splitlines()
    assert lines[0] == lines[-1]
    assert lines[0].startswith("REHEARSAL")


@pytest.mark.slow
def test_a_run_that_takes_too_long_is_stopped_and_the_next_one_runs(check):
    from processes import LATE, Outcome

    early, quick, endless, again = (Outcome() for _ in range(4))
    job = {"engine": "plain", "settings": check.settings("W2", "plain", device="cpu")}
    check.processes.run("plain", job, early, 0.01)
    assert early.error == LATE
    check.processes.run("plain", job, quick, 120)
    assert (quick.error, len(quick.seconds)) == ("", 1)
    forever = {"engine": "plain", "settings": job["settings"] | {"rounds": 1_000_000}}
    check.processes.run("plain", forever, endless, 3)
    assert endless.error == "stopped: no time left"
    assert endless.seconds  # of the rounds that it finished
    check.processes.run("plain", job, again, 120)
    assert again.error == ""


@pytest.mark.slow
def test_an_engines_error_is_reported(check):
    from processes import Outcome

    outcome = Outcome()
    settings = check.settings("W2", "inline", device="cuda:99")
    check.processes.run("inline", {"engine": "inline", "settings": settings}, outcome, 120)
    assert "PyTorch sees" in outcome.error


def test_pytests_lines_are_counted():
    from gpu_check import outcomes_of

    lines = ["collected 3", "t.py::a PASSED [ 33%]", "t.py::b[x y] FAILED [ 66%]", "E ERROR"]
    lines += ["t.py::c ", "[gw1] [ 99%] FAILED t.py::c[x y] "]  # as xdist has it
    assert outcomes_of("\n".join(lines)) == [
        "Tests on a GPU: 1 passed, 2 failed, 0 error, 0 skipped",
        "- t.py::b[x y]",
        "- t.py::c[x y]",
    ]


def test_operations_are_counted_but_views_are_not():
    import torch
    from profile_round import Operations

    a = torch.ones(2, 3)
    with Operations() as counted:
        a.t().view(3, 2).add(1).mul_(2)
    assert counted.found == {"add": 1, "mul_": 1}


def test_a_profile_counts_launches_and_the_hosts_time(tmp_path, check):
    from profile_round import profiled

    from fedalign.settings.config import read

    settings = check.settings("W2", "inline", device="cpu", rounds=8) | {"out": str(tmp_path)}
    found = profiled(read(None, settings))
    assert found["launches"] > found["per_step"] > 10  # two steps a round, 20 examples a client
    assert 0 < found["outside_ms"] < found["round_ms"]


def test_a_job_runs_a_workload_and_says_what_it_came_to(tmp_path, check):
    from engines import run_job

    settings = check.settings("W2", "inline", device="cpu", rounds=2)
    found = run_job({"engine": "inline", "settings": settings, "out": str(tmp_path)})
    assert len(found["hash"]) == 12
    assert found["host_mb"] > 0


@pytest.mark.slow
def test_the_whole_check_runs_small(tmp_path, monkeypatch, capsys):
    import gpu_check

    out = tmp_path / "table.md"
    words = ["gpu_check.py", "--small", "--seconds", "400", "--out", str(out)]
    monkeypatch.setattr(
        sys, "argv", [*words, "--only", "rounds", "profile", "evaluation", "convolutions"]
    )
    gpu_check.main()
    text = out.read_text()
    assert text in capsys.readouterr().out
    assert "| rounds | CIFAR | inline |" in text
    assert "ended with" not in text
    assert "| W1 | bf16 |" in text
    assert "Convolutions, bf16" in text
