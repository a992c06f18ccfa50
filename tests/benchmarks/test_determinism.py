"""`benchmarks/determinism.py`: what it asks for is valid, and its cheapest cells agree."""

import subprocess
import sys

import pytest

from fedalign.settings.config import read
from fedalign.settings.registry import HOME
from fedalign.settings.sources import parse_overrides


def test_each_cell_trains_the_same_clients_one_by_one():
    from determinism import ALGORITHMS, ENGINES, settings_of

    for algorithm in ALGORITHMS:
        trained = set()
        for engine in ENGINES:
            config = read("quickstart", parse_overrides(settings_of(engine, algorithm)))
            assert (config.simulation.stack, config.simulation.partial_aggregation) == (1, False)
            trained.add(config.model_copy(update={"simulation": None}).model_dump_json())
        assert len(trained) == 1


@pytest.mark.slow
def test_a_stopped_run_ends_with_the_model_of_a_straight_one():
    words = ["benchmarks/determinism.py", "--only", "inline", "fedadam", "dropout"]
    done = subprocess.run([sys.executable, *words], cwd=HOME, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the same model in all rows: 2 of 2 algorithms" in done.stdout
    assert "(" not in done.stdout  # each stopped run was stopped by SIGTERM, and resumed
