"""What a run leaves: nothing about it is lost, and each round is there once."""

import json
import logging
import os
import stat

import pandas as pd
import pytest

from clients.local import Local
from fedalign.runs.log import RunLog, say
from fedalign.runs.paths import CHECKPOINT
from fedalign.runs.tables import COSTS
from fedalign.runs.totals import totals
from fedalign.runs.trees import read as read_tree
from fedalign.runs.trees import write as write_tree
from tests.runs.test_checkpoint import interrupt  # noqa: F401 - a fixture

BRIEF = {"rounds": 4, "checkpoint_every": 2, "clients_per_round": 3}


def read(folder, name="sampled.csv"):
    return pd.read_csv(folder / name)


def told(folder):
    return json.loads((folder / "manifest.json").read_text())


@pytest.mark.parametrize("partial_aggregation", [True, False])
def test_who_was_sampled_and_how_each_client_did(run, partial_aggregation):
    folder = run(**BRIEF, simulation__partial_aggregation=partial_aggregation)
    sampled, metrics = read(folder), read(folder, "metrics.csv").set_index("round")
    assert list(sampled) == ["round", "client", "examples", "train_loss", "outcome"]
    assert set(sampled["outcome"]) == {"used"}
    assert set(sampled["examples"]) == {75}
    assert not sampled.duplicated(["round", "client"]).any()
    by_round = sampled.groupby("round")
    assert (by_round.size() == 3).all()
    pd.testing.assert_series_equal(
        by_round["train_loss"].mean(), metrics["train_loss"], check_exact=False, rtol=1e-12
    )
    steps = 3 * 3  # clients of three batches: 32, 32 and 11 examples
    assert metrics["client_steps"].tolist() == [steps] * 4


@pytest.mark.parametrize("partial_aggregation", [True, False])
def test_a_model_that_was_not_used_has_the_reason(run, monkeypatch, partial_aggregation):
    train, calls = Local.train, []

    def spoil(self, stack):
        trained = train(self, stack)
        calls.append(stack)
        if len(calls) == 2:  # client 1, in round 1
            stack.block[0] = float("nan")
        return trained

    monkeypatch.setattr(Local, "train", spoil)
    together = {"simulation__partial_aggregation": partial_aggregation}
    sampled = read(run(rounds=2, simulation__stack=1, **together)).set_index(["round", "client"])
    told = sampled["outcome"][1, 1]
    assert "holds NaN" in told
    assert set(sampled["outcome"].drop((1, 1))) == {"used"}
    assert sampled["train_loss"].isna().sum() == 1
    assert sampled["train_loss"].isna()[1, 1]


def test_a_resumed_run_has_each_round_once_and_goes_on_with_its_log(run, interrupt):  # noqa: F811
    whole = read(run(**BRIEF))
    interrupt(3, **BRIEF)
    folder = run(**BRIEF)
    assert read(folder).equals(whole)
    log = (folder / "run.log").read_text().splitlines()
    said = [line.split(" ", 1)[1] for line in log]
    assert sum("command: " in line for line in said) == 2
    assert "ERROR   stopped" in said
    assert said[-1] == f"INFO    results in {folder}"
    assert sum(line.startswith("INFO        3 ") for line in said) == 2  # round 3, twice


def test_the_totals_are_of_all_starts(run, interrupt):  # noqa: F811
    interrupt(3, **BRIEF)
    folder = run(**BRIEF)
    manifest, metrics = told(folder), read(folder, "metrics.csv")
    found = manifest["totals"]
    assert found["rounds"] == 4
    assert found["client_steps"] == metrics["client_steps"].sum()
    assert found["bytes_up"] == metrics["bytes_up"].sum()
    assert found["seconds"] > manifest["seconds"] > 0
    assert found["cpu_seconds"] > 0
    assert found["peak_memory"] >= metrics["peak_memory"].max() > 1 << 20
    assert manifest["ended"] >= manifest["started"]
    assert {"pandas", "torch"} <= manifest["versions"].keys()


def test_a_split_can_be_used_again(run):
    settings = BRIEF | {"partition": "dirichlet", "evaluation__holdout": 0.2}
    folder = run(**settings)
    again = {"partition": "indices", "partition__file": str(folder / "partition.json")}
    other = run(**(settings | again))
    tables = [read(place, "metrics.csv").drop(columns=[*COSTS]) for place in (folder, other)]
    assert tables[0].equals(tables[1])
    assert (folder / "partition.json").read_bytes() == (other / "partition.json").read_bytes()


def test_files_have_ordinary_permissions(run):
    before = os.umask(0o027)
    try:
        folder = run(**(BRIEF | {"rounds": 1}))
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
    assert set(modes.values()) == {0o640}, modes


def test_tables_of_an_older_fedalign_go_on_as_they_began(run, interrupt, tmp_path):  # noqa: F811
    interrupt(3, **BRIEF)
    (folder,) = tmp_path.iterdir()
    older = read(folder, "metrics.csv").drop(columns=["cpu_seconds", "client_steps"])
    older.head(2).to_csv(folder / "metrics.csv", index=False)
    (folder / "sampled.csv").unlink()
    checkpoint = read_tree(folder / CHECKPOINT)
    del checkpoint["sizes"]["sampled.csv"]
    checkpoint["sizes"]["metrics.csv"] = (folder / "metrics.csv").stat().st_size
    write_tree(folder / CHECKPOINT, checkpoint)
    run(**BRIEF)
    metrics = read(folder, "metrics.csv")
    assert list(metrics) == list(older)
    assert metrics["round"].tolist() == [1, 2, 3, 4]
    assert metrics["seconds"].between(0, 60).all()
    assert read(folder)["round"].tolist() == [3, 3, 3, 4, 4, 4]


def test_totals_do_not_invent_what_no_row_says(tmp_path):
    (tmp_path / "metrics.csv").write_text("round,bytes_down,client_steps\n1,7,\n2,5,\n")
    spent = {"seconds": 2.0, "cpu_seconds": 1.5, "peak_memory": 30}
    earlier = {"seconds": 1.0, "cpu_seconds": 0.5, "peak_memory": 40}
    assert totals(tmp_path / "metrics.csv", spent, earlier) == {
        "rounds": 2, "seconds": 3.0, "cpu_seconds": 2.0, "peak_memory": 40,
        "client_steps": None, "bytes_down": 12, "bytes_up": None,
    }  # fmt: skip


def test_the_log_has_what_was_said_before_it_had_a_file(tmp_path, capsys):
    def go():
        with RunLog() as said:
            logging.getLogger("fedalign").warning("early %s", "warning")
            say("shown")
            said.open(tmp_path)
            logging.getLogger("flwr").info("news of Flower's")
            raise ZeroDivisionError("oh")

    with pytest.raises(ZeroDivisionError):
        go()
    log = (tmp_path / "run.log").read_text()
    lines = [line.split(" ", 1)[-1] for line in log.splitlines()]
    assert lines[:2] == ["WARNING early warning", "INFO    shown"]
    assert lines[3] == "ERROR   error: oh"
    assert log.rstrip().endswith("ZeroDivisionError: oh")
    assert "Flower" not in log
    say("after")
    assert (tmp_path / "run.log").read_text() == log
    assert capsys.readouterr().out == "shown\nafter\n"
