"""The number of workers changes no bit, whatever is summed and stacked where."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from safetensors.torch import load_file

from fedalign.runs.paths import folder_of
from fedalign.settings.config import read
from fedalign.settings.registry import HOME
from fedalign.simulation import FlowerApp, simulate
from fedalign.simulation.workers import Pool
from tests.doubles import join_at_once

APP = FlowerApp(HOME, "fedalign.server_app:app", "fedalign.client_app:app", {})
SETTINGS = {
    "rounds": 3,
    "num_clients": 80,
    "clients_per_round": 70,  # sums of three clients at least
    "data.max_examples": 900,
    "partition.min_size": 2,
    "model.width": 16,
    "strategy": "fedpnu",
    "evaluation.alphas": 3,
    "evaluation.examples": 50,
}
WAYS = {
    "exact": {"simulation.stack": 1, "simulation.partial_aggregation": False},
    "summed": {"simulation.stack": 1, "simulation.partial_aggregation": True},
    "stacks": {"simulation.stack": 8, "simulation.partial_aggregation": True},
}
FEW = {"num_clients": 20, "clients_per_round": 8, "partition.min_size": 5}
# Each client with a mask of its own, so that nothing is summed.
ALONE = {"strategy": "fedpfn", "strategy.per_client": True, "wire": "float16"}
OTHERS = {
    "scaffold": FEW | ALONE | {"strategy.base": "scaffold", "client": "scaffold"},
    "feddyn": FEW | {"strategy": "feddyn", "client": "feddyn"},
    "moon": FEW | {"strategy": "fedavg", "client": "moon"},
}


def run(out, way, workers=None, engine="ray", **more):
    """Return the final model and the client barriers, in this process or with so many workers."""
    backend = {"simulation.backend": "inline" if workers is None else engine}
    cpus = {} if workers is None else {"simulation.client_cpus": 2 / workers}
    config = read(
        None, SETTINGS | WAYS[way] | backend | cpus | more | {"out": str(out / f"{workers}")}
    )
    engine = config.simulation
    simulate(
        APP,
        config.num_clients,
        config.run_config(),
        backend=engine.backend,
        backend_config=engine.backend_config("auto"),
    )
    weights = load_file(folder_of(config) / "model.safetensors")
    rows = (folder_of(config) / "landscape.csv").read_text()
    return torch.cat([weight.flatten().double() for weight in weights.values()]), rows


@cache
def here(way, name=""):
    """The same in this process, once for all tests."""
    with TemporaryDirectory() as out:
        return run(Path(out), way, **OTHERS.get(name, {}))


def check(here, there):
    assert torch.equal(here[0], there[0])
    assert here[1] == there[1]


@pytest.mark.usefixtures("ray")
@pytest.mark.parametrize(
    ("way", "workers"),
    [
        ("stacks", 3),
        pytest.param("summed", 2, marks=pytest.mark.slow),
        pytest.param("stacks", 1, marks=pytest.mark.slow),
        pytest.param("stacks", 4, marks=pytest.mark.slow),
    ],
)
def test_any_number_of_workers_gives_the_same_bits(tmp_path, way, workers):
    check(here(way), run(tmp_path, way, workers))


@pytest.mark.usefixtures("ray")
def test_workers_that_join_change_no_bit(tmp_path, monkeypatch):
    served, serve = [], Pool._serve
    join_at_once(monkeypatch)
    monkeypatch.setattr(Pool, "_serve", lambda *own: served.append(own) or serve(*own))
    check(here("stacks"), run(tmp_path, "stacks", 2, engine="auto"))
    assert served


@pytest.mark.usefixtures("ray")
@pytest.mark.slow  # test_fedalign_engines.py is quicker
@pytest.mark.parametrize("name", OTHERS)
def test_what_clients_keep_follows_them_to_any_worker(tmp_path, name):
    check(here("stacks", name), run(tmp_path, "stacks", 2, **OTHERS[name]))


def test_sums_and_stacks_are_the_same_within_rounding():
    exact, summed, stacks = (here(way)[0] for way in WAYS)
    torch.testing.assert_close(summed, exact, rtol=0, atol=1e-6)
    torch.testing.assert_close(stacks, exact, rtol=0, atol=1e-5)
    assert not torch.equal(stacks, exact)  # it is another way
