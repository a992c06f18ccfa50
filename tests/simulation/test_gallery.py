"""Small apps, one for each way to write a Flower app, end as on Flower's own engine."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from fedalign.simulation import find_app, simulate
from fedalign.simulation.workers import Pool
from tests.doubles import join_at_once

APPS = Path(__file__).parents[1] / "apps"
RESULTS = {
    "kinds": {
        "model": [7.5] * 3,
        "sums": [[3.75], [11.25], [22.5]],
        "visits": [3] * 4,
        "kinds": ["bool", "float", "str", "float", "int"],
    },
    "legacy": {"together": [1] * 12, "sums": [4.0, 19.0, 40.0, 67.0]},
    "secagg": {"model": [3.0] * 3, "rounds": 2},
    "overlap": {"came": sorted([number, number] for number in (1, 2, 3) * 4)},
    "beside": {"totals": [3.0, 7.0, 11.0, 15.0], "whole": 36.0},
    "failing": {"errors": [0, 2, 0, 1], "visits": [[1] * 4, [2, 2], [2, 2, 3, 3], [3, 3, 4]]},
    "sleeper": {"came": [0, 1, 3], "late": [2]},
    "clipped": {"model": [1.0] * 4},
    "threads": {"threads": [2] * 4},
}
ALONE = ("threads",)  # a client needs both CPUs
TIMES = {"inline": 0.1, "ray": 1.0, "auto": 1.0, "flower": 2.0}


def result_of(name, folder):
    """Return what an app has written; the numbers are exact."""
    return json.loads((folder / f"{name}.json").read_text())


@pytest.fixture
def run_here(tmp_path, monkeypatch):
    """Return a function that runs an app, and returns what it has written."""
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(name, engine):
        app = find_app(str(APPS / name))
        settings = {"out": str(tmp_path / f"{name}.json"), "pace": TIMES[engine]}
        simulate(app, app.num_supernodes, settings, backend=engine, backend_config=app.engine)
        return result_of(name, tmp_path)

    return run


@pytest.mark.parametrize("name", RESULTS)
def test_in_this_process(name, run_here):
    assert run_here(name, "inline") == RESULTS[name]


@pytest.mark.slow
@pytest.mark.usefixtures("ray")
@pytest.mark.parametrize("name", RESULTS)
def test_beside_workers(name, run_here, monkeypatch):
    served, serve = [], Pool._serve
    monkeypatch.setattr(Pool, "_serve", lambda *own: served.append(own) or serve(*own))
    join_at_once(monkeypatch)
    assert run_here(name, "auto") == RESULTS[name]
    assert bool(served) == (name not in ALONE)


@pytest.fixture(scope="module", params=["ray", "flower"])
def everywhere(request, run_jobs, tmp_path_factory):
    """Return a folder with what all apps have written on an engine, and how each ended."""
    cwd = tmp_path_factory.mktemp(request.param)
    jobs = [
        {
            "app": str(APPS / name),
            "num_supernodes": 4,
            "run_config": {"pace": TIMES[request.param]},
            "backend": request.param,
            "backend_config": find_app(str(APPS / name)).engine,
        }
        for name in RESULTS
    ]
    return cwd, dict(zip(RESULTS, run_jobs(cwd, *jobs)[0], strict=True))


@pytest.mark.slow
@pytest.mark.xdist_group("ray")
@pytest.mark.parametrize("name", RESULTS)
def test_on_workers(name, everywhere):
    cwd, outcomes = everywhere
    assert outcomes[name] == "ok"
    assert result_of(name, cwd) == RESULTS[name]
