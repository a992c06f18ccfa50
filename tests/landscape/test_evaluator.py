"""How often measuring waits for the device."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fedalign.landscape import evaluator
from fedalign.landscape.evaluator import Evaluator
from fedalign.landscape.paths import Path, grid
from fedalign.network.network import Network
from fedalign.settings.sections import Evaluation

WAITS = {"aten._local_scalar_dense.default", "aten.equal.default", "aten.is_nonzero.default"}


class Waits(TorchDispatchMode):
    """Counts what would wait for a GPU, beside `evaluator.read`."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.found += [str(func)] * (str(func) in WAITS)
        return func(*args, **kwargs or {})


@pytest.fixture
def look(data):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 3))
    network = Network(module, data, torch.device("cpu"))
    start = network.layout.to_vector(network.initial)
    models = {name: start + 0.1 * torch.randn(start.shape) for name in "abcd"}
    models |= {"copy of a": models["a"].clone(), "lost": start * torch.nan}
    return Evaluator(network, data, data, Evaluation()), network, models


@pytest.mark.parametrize("together", [True, False])
def test_a_rounds_points_are_read_at_once(look, monkeypatch, together):
    """Once to find equal and diverged models, once to compare, once for all scores."""
    evaluate, network, models = look
    assert network.mixes is not None
    if not together:
        network.__dict__["mixes"] = None
    monkeypatch.setattr(evaluator, "MAX_MIXES", 7)
    reads, read = [], evaluator.read
    monkeypatch.setattr(evaluator, "read", lambda values: reads.append(len(values)) or read(values))
    ends = [("a", "b"), ("b", "c"), ("copy of a", "b"), ("d", "lost")]
    paths = [Path(f"{one}-{two}", one, two, grid(5)) for one, two in ends]
    with Waits() as waits:
        first, _, third, lost = evaluate.curves(models, paths)
    assert waits.found == []
    assert reads[:3] == [6, 1, 5 + 4 + 5]
    assert list(first.losses) == list(third.losses)
    assert torch.tensor(lost.losses).isnan().tolist() == [False, True, True, True, True]


def test_models_that_may_not_fit_stay_where_they_are(look, monkeypatch):
    evaluate, network, models = look
    sent, upload = [], network.upload
    monkeypatch.setattr(network, "upload", lambda vector: sent.append(1) or upload(vector))
    evaluate.points(models, [{"a": 0.5, "b": 0.5}])
    assert len(sent) == 2
    monkeypatch.setattr(evaluator, "MANY", 2 * network.layout.size - 1)
    evaluate.points(models, [{"a": 0.5, "b": 0.5}])
    assert len(sent) == 2
