"""The number of workers changes no bit, whatever is summed and stacked where."""

import pytest
import torch
from safetensors.torch import load_file

from fedalign.runs.paths import folder_of
from fedalign.settings.config import read
from fedalign.settings.registry import HOME
from fedalign.simulation import FlowerApp, simulate

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


STATEFUL = {
    "scaffold": {"strategy": "scaffold", "client": "scaffold"},
    "feddyn": {"strategy": "feddyn", "client": "feddyn"},
    "moon": {"strategy": "fedavg", "client": "moon"},
    "dropout": {"strategy": "fedpfn", "strategy.per_client": True, "wire": "float16"},
}


def run(out, way, workers=None, **more):
    """Return the final model and the client barriers, in this process or with so many workers."""
    backend = {} if workers is None else {"simulation.backend": "ray"}
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


@pytest.mark.usefixtures("ray")
@pytest.mark.parametrize(
    ("way", "workers"),
    [
        ("summed", 2),
        ("stacks", 3),
        pytest.param("stacks", 1, marks=pytest.mark.slow),
        pytest.param("stacks", 4, marks=pytest.mark.slow),
    ],
)
def test_any_number_of_workers_gives_the_same_bits(tmp_path, way, workers):
    model, rows = run(tmp_path, way)
    there, rows_there = run(tmp_path, way, workers)
    assert torch.equal(model, there)
    assert rows == rows_there


@pytest.mark.usefixtures("ray")
@pytest.mark.parametrize(
    "name",
    [
        "scaffold",
        "dropout",
        pytest.param("feddyn", marks=pytest.mark.slow),
        pytest.param("moon", marks=pytest.mark.slow),
    ],
)
def test_what_clients_keep_follows_them_to_any_worker(tmp_path, name):
    more = STATEFUL[name] | {"num_clients": 20, "clients_per_round": 8, "partition.min_size": 5}
    model, rows = run(tmp_path, "stacks", **more)
    there, rows_there = run(tmp_path, "stacks", 2, **more)
    assert torch.equal(model, there)
    assert rows == rows_there


def test_sums_and_stacks_are_the_same_within_rounding(tmp_path):
    exact, _ = run(tmp_path / "exact", "exact")
    summed, _ = run(tmp_path / "summed", "summed")
    stacks, _ = run(tmp_path / "stacks", "stacks")
    again, _ = run(tmp_path / "again", "stacks")
    torch.testing.assert_close(summed, exact, rtol=0, atol=1e-6)
    torch.testing.assert_close(stacks, exact, rtol=0, atol=1e-5)
    assert torch.equal(stacks, again)
