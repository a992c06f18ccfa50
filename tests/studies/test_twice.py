"""`fedalign doctor --twice`: what a part depends on that no seed decides is found and named."""

import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from fedalign.cli import app
from fedalign.settings.config import read
from fedalign.studies.twice import Seen, difference, record
from tests.conftest import BRIEF

SOURCE = """
import random
import numpy as np
import torch
from torch import nn
from clients.local import Local
CALLS = 0
class Own(nn.Sequential):
    def forward(self, x):
        global CALLS
        CALLS += 1
        return super().forward(x) * (1 + CALLS / 1000)
class Noisy(Local):
    def correct(self, training, gradient):
        noise = torch.randn(gradient.shape) * np.random.rand() * random.random()
        gradient.add_(noise, alpha=1e-2)
def counting(shape: tuple[int, int, int], classes: int) -> nn.Module:
    return Own(nn.Flatten(), nn.Linear(shape[0] * shape[1] * shape[2], classes))
class Hashing(Local):
    def correct(self, training, gradient):
        gradient.add_(hash("a word") % 100 / 1e4)
"""


def seen(w=1.0, clients=(0, 1), **numbers):
    return Seen({k: {"w": np.array([w, 2.0])} for k in clients}, {"w": np.ones(2)}, numbers)


@pytest.mark.parametrize(
    ("other", "found"),
    [
        (seen(seconds=2.0, loss=0.5), ""),
        (seen(1.5, loss=0.5), "round 2: client 0: 'w' differs, by up to 0.5"),
        (seen(clients=(1,), loss=0.5), "round 2: clients [0, 1] and [1] took part"),
        (seen(loss=0.25), "round 2: 'loss' is 0.5 and 0.25"),
        (seen()._replace(model={"w": np.zeros(2)}), "round 2: the new model: 'w' differs, by up"),
        (seen(float("nan"), loss=0.5), "round 2: client 0: 'w' differs"),
    ],
)
def test_the_first_difference_is_named(other, found):
    one = seen(seconds=1.0, loss=0.5)
    told = difference([one, one], [one, other])
    assert told.startswith(found)
    assert bool(told) == bool(found)


def test_what_is_stacked_may_differ_by_rounding():
    assert difference([seen(1.0, loss=1.0)], [seen(1.0001, loss=2.0)], 1e-3) == ""
    assert difference([seen(1.0)], [seen(1.1)], 1e-3)


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "twice_own.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    yield "twice_own"
    sys.modules.pop("twice_own", None)


def settings(**more):
    brief = {key: value for key, value in BRIEF.items() if key != "model.width"}
    brief |= {"strategy": "fedavg", "evaluation.alphas": 0}
    return read("quickstart", brief | more)


def test_a_variable_of_a_python_module_is_found(own):
    config = settings(model=f"{own}:counting")
    told = difference(record(config), record(config))
    assert told.startswith("round 1: client 0: '1.weight' differs")


@pytest.mark.slow
def test_an_algorithm_that_draws_globally_repeats_in_any_stack(own, caplog):
    config = settings(client=f"{own}:Noisy", **{"simulation.partial_aggregation": False})
    one = record(config, 1)
    assert difference(one, record(config, 4)) == ""
    assert (
        "since their training draws from the global generator of PyTorch and NumPy" in caplog.text
    )
    models = [client["fc1.weight"] for client in one[0].clients.values()]
    assert not np.array_equal(models[0] - models[1], models[2] - models[3])


@pytest.mark.slow
def test_a_run_repeats():
    config = settings(**{"evaluation.client_fraction": 1.0})
    one = record(config)
    assert difference(one, record(config)) == ""
    assert difference(one, record(config, 2), 1e-3) == ""
    assert len(one) == 2
    assert one[0].clients.keys() == {0, 1, 2, 3}
    assert "accuracy of client 3" in one[0].numbers


@pytest.mark.slow
def test_what_differs_between_processes_is_found(own, monkeypatch):
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    overrides = [f"{key}={value}" for key, value in BRIEF.items()]
    command = ["doctor", "--twice", "quickstart", *overrides]
    result = CliRunner().invoke(app, [*command, "strategy=fedavg", f"client={own}:Hashing"])
    assert result.exit_code == 1, result.output
    again, process, _ = result.output.splitlines()
    assert again == "again     the same bits"
    assert process.startswith("process   DIFFERS in round 1: client 0: '")
    assert CliRunner().invoke(app, command).exit_code == 0
