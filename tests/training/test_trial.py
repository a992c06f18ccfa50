"""What a GPU cannot reproduce or capture is named, before a run and in its manifest."""

import re
import warnings

import pytest
import torch
from torch import nn

from clients.local import Local
from fedalign.federation.federation import Federation
from fedalign.network.device import NOT_DETERMINISTIC
from fedalign.network.network import Network
from fedalign.network.stacking import Stacking
from fedalign.report import doctor
from fedalign.runs import manifest
from fedalign.settings.config import read
from fedalign.training.trial import Findings, trial
from tests.tape import Tapes


class Putting(nn.Module):
    """A linear layer, and an operation that PyTorch calls not deterministic on a CPU too."""

    def __init__(self):
        super().__init__()
        self.flatten, self.fc = nn.Flatten(), nn.Linear(64, 10)

    def forward(self, x):
        with torch.no_grad():
            torch.zeros(4).put_(torch.tensor([0, 1]), torch.ones(2))
        return self.fc(self.flatten(x))


@pytest.fixture
def _deterministic():
    with warnings.catch_warnings():
        torch.use_deterministic_algorithms(True, warn_only=True)
        yield
        torch.use_deterministic_algorithms(False)


def federation(module=None, **settings):
    ours = Federation(read(None, {"data.max_examples": 200, "evaluation.alphas": 0} | settings))
    if module:
        ours.__dict__["network"] = Network(module, ours.spec, torch.device("cpu"))
    return ours


@pytest.mark.usefixtures("_deterministic")
def test_they_are_found_by_trying():
    assert trial(federation()) == Findings([], [])
    assert trial(federation(Putting())) == Findings(["put_"], [])


def test_what_cannot_be_captured_is_named(monkeypatch):
    monkeypatch.setattr(Network, "graphs", Tapes(refuses=True))
    (why,) = trial(federation()).not_captured
    assert "operation not permitted when stream is capturing" in why
    monkeypatch.setattr(Network, "graphs", None)
    monkeypatch.setattr(Network, "stacking", Stacking(None, "'fold' cannot be stacked"))
    assert trial(federation()).not_captured == [
        "clients train one by one, since 'fold' cannot be stacked"
    ]


def test_a_trial_leaves_the_network_as_it_was():
    ours = federation()
    network, start = ours.network, ours.network.receive(ours.network.initial)
    expected, run = start.clone(), network.function_of(2 * start)
    images = ours.train.images[:5]
    before = run(images)
    trial(ours)
    assert torch.equal(run(images), before)
    assert torch.equal(start, expected)


def test_an_unset_workspace_of_cublas_is_one_of_them():
    told = (
        "Deterministic behavior was enabled with either `torch.use_deterministic_algorithms(True)`"
    )
    told += ", but this operation is not deterministic because it uses CuBLAS and you have CUDA"
    assert re.match(NOT_DETERMINISTIC, told)


@pytest.mark.usefixtures("_deterministic")
def test_a_trial_that_fails_ends_no_run(monkeypatch):
    def fail(*_):
        raise KeyError("control")

    monkeypatch.setattr(Local, "train", fail)
    assert "a trial failed (KeyError: 'control')" in trial(federation()).not_reproducible[0]


@pytest.fixture
def _h100(monkeypatch):
    facts = {"name": "H100", "driver": "580.1", "cuda": "13.0", "cudnn": "91400"}
    for room in (doctor, manifest):
        monkeypatch.setattr(room, "gpu_facts", lambda _: facts)


@pytest.mark.usefixtures("_deterministic", "_h100")
def test_the_manifest_names_card_versions_and_precision(caplog):
    found = manifest._gpu(federation(Putting(), tf32=False))
    assert found == {
        "name": "H100",
        "driver": "580.1",
        "cuda": "13.0",
        "cudnn": "91400",
        "precision": "float32",
        "tf32": False,
        "deterministic": True,
        "convolutions": {},
        "not_reproducible": ["put_"],
        "not_captured": [],
    }
    assert "two runs may differ, since nothing deterministic exists for put_" in caplog.text


@pytest.mark.usefixtures("_h100")
@pytest.mark.parametrize(
    ("found", "settings", "line"),
    [
        ([], {}, "H100, float32, TF32 in matrix products and convolutions; the same seed gives"),
        ([], {"precision": "bf16", "tf32": False}, "bfloat16 in forward and backward passes; "),
        (["put_"], {}, "two runs may differ: nothing deterministic exists for put_"),
        ([], {"deterministic": False}, "two runs may differ in the last bits"),
    ],
)
def test_doctor_tells_precision_and_what_is_not_reproducible(monkeypatch, found, settings, line):
    ours = federation(**settings)
    ours.network.device = torch.device("cuda")
    monkeypatch.setattr(doctor, "trial", lambda _: Findings(found, []))
    assert line in doctor._device(ours)
    assert doctor._device(ours).endswith("steps are CUDA graphs")
    monkeypatch.setattr(doctor, "trial", lambda _: Findings(found, ["no room", "a sync"]))
    assert doctor._device(ours).endswith("steps run without CUDA graphs: no room; a sync")
