"""Real processes on loopback: TLS, a key for each node, data of their own."""

import json
import os
import time

import numpy as np
import pandas as pd
import psutil
import pytest
from typer.testing import CliRunner

from fedalign.cli import app
from fedalign.deploy.superlink import SuperLink, show
from fedalign.federation.federation import Federation
from fedalign.runs.tables import COSTS
from fedalign.settings.config import read

SETTINGS = {
    "strategy": "fedpnu",
    "timeout": 300,  # for nodes to come
    "evaluation.pairs": 2,
    "evaluation.holdout": 0.25,
    "simulation.stack": 1,
    "simulation.partial_aggregation": False,
}


def parts(settings, tmp_path):
    """Return folders with what each client of the simulation has."""
    federation, count = Federation(read("quickstart", settings)), settings["num_clients"]
    folders = []
    shards = zip(federation.shards(count), federation.holdouts(count), strict=True)
    for i, (own, kept) in enumerate(shards):
        rows = np.sort(np.concatenate([own, kept]))
        data = federation.train.at(rows)
        folder = tmp_path / f"clinic-{i}"
        folder.mkdir()
        np.savez(folder / "train.npz", images=data.images.numpy(), labels=data.labels.numpy())
        folders.append(folder)
    return folders


def test_a_runs_log_is_shown_without_chatter_and_tracebacks_of_ours(capsys):
    chatter = ["\x1b[92mINFO \x1b[0m:      configure_train\n", "Using SuperLink: fedalign\n"]
    raised = ["\x1b[91mERROR \x1b[0m:     ServerApp raised an exception\n", "Traceback\n"]
    show([*chatter, "round 1\n", *raised, "fedalign.errors.InputError: too few\n", "more\n"])
    assert capsys.readouterr().out == "round 1\n"
    show([*raised, "KeyError: 1\n"])
    assert capsys.readouterr().out == "".join(raised) + "KeyError: 1\n"


def test_whoever_stops_following_a_run_does_not_wait_for_its_next_line(tmp_path, monkeypatch):
    """Such as by a signal: Flower's command is silent until a node answers, or for good."""
    flwr = tmp_path / "flwr"
    flwr.write_text("#!/bin/sh\necho round 1\nexec sleep 60\n")
    flwr.chmod(0o755)
    monkeypatch.setattr("fedalign.deploy.superlink.program", lambda _: str(flwr))
    began = time.monotonic()
    lines = SuperLink("localhost:1", tmp_path / "ca.crt", tmp_path)._lines("1")
    assert next(lines) == "round 1\n"
    lines.close()
    assert time.monotonic() - began < 20


def processes(mark):
    """The processes that have inherited this environment variable, but for this one."""
    found = psutil.process_iter(["environ"])
    return {p.pid for p in found if mark in (p.info["environ"] or ())} - {os.getpid()}


@pytest.mark.xdist_group("superlink")
@pytest.mark.parametrize(
    ("nodes", "rounds", "tests"), [(2, 1, 0), pytest.param(3, 2, 1, marks=pytest.mark.slow)]
)
def test_own_data_over_tls_is_the_simulation_to_the_bit(
    tmp_path, monkeypatch, nodes, rounds, tests
):
    """Each message starts a process that imports torch, which is what takes the time."""
    settings = SETTINGS | {"num_clients": nodes, "rounds": rounds}
    settings |= {"evaluation.client_every": rounds, "evaluation.client_fraction": tests}
    overrides = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    mark, run = f"DEPLOYED_{tmp_path.name}_{os.getpid()}", CliRunner()
    monkeypatch.setenv(mark, "1")
    words = [word for folder in parts(settings, tmp_path) for word in ("--data", str(folder))]
    out, logs = tmp_path / "runs", tmp_path / "logs"
    done = run.invoke(
        app,
        [
            "deploy",
            "local",
            "quickstart",
            *overrides,
            *words,
            "--out",
            str(out),
            "--logs",
            str(logs),
        ],
    )
    assert done.exit_code == 0, done.output + "".join(log.read_text() for log in logs.iterdir())
    assert not processes(mark)  # nothing is left behind
    (deployed,) = out.iterdir()
    assert deployed.name.startswith("quickstart-deployed-")

    assert run.invoke(app, ["run", "quickstart", *overrides, "--out", str(tmp_path)]).exit_code == 0
    (simulated,) = tmp_path.glob("quickstart-*")
    assert simulated.name.split("-")[-1] == deployed.name.split("-")[-1]
    model = "model.safetensors"
    assert (deployed / model).read_bytes() == (simulated / model).read_bytes()
    for table in ("landscape.csv", "barriers.csv", "clients.csv")[: 2 + tests]:
        assert (deployed / table).read_text() == (simulated / table).read_text()
    ours, theirs = (
        pd.read_csv(f / "metrics.csv").drop(columns=[*COSTS]) for f in (deployed, simulated)
    )
    pd.testing.assert_frame_equal(ours, theirs)
    told = json.loads((deployed / "manifest.json").read_text())
    assert told["engine"] == "HttpGrid"
    assert told["data"]["source"].startswith("each node's local data")
    assert not (deployed / "partition.png").exists()

    again = run.invoke(
        app, ["deploy", "local", "quickstart", *overrides, *words, "--out", str(out)]
    )
    assert "is finished already" in again.output
