"""How a process computes on a GPU: settings that a machine without one can check."""

import os
import warnings

import pytest
import torch

from fedalign.network import device
from fedalign.network.device import WORKSPACE, device_of, set_up_gpu, side_stream
from fedalign.network.evaluation import batch_on_gpu
from fedalign.settings.config import read

CPU = torch.device("cpu")


def settings():
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    return {
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "fill": torch.utils.deterministic.fill_uninitialized_memory,
        "benchmark": cudnn.benchmark,
        "precision": [kind.fp32_precision for kind in (matmul, cudnn.conv, cudnn.rnn)],
        "workspace": os.environ.get(WORKSPACE),
    }


@pytest.fixture
def _restored(monkeypatch):
    kinds = [torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn]
    rounding, filled = [kind.fp32_precision for kind in kinds], settings()["fill"]
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    monkeypatch.setenv(WORKSPACE, "none")
    monkeypatch.delenv(WORKSPACE)
    with warnings.catch_warnings():
        yield
    for kind, before in zip(kinds, rounding, strict=True):
        kind.fp32_precision = before
    torch.utils.deterministic.fill_uninitialized_memory = filled
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("_restored")
@pytest.mark.parametrize(("tf32", "precision"), [(True, "tf32"), (False, "ieee")])
def test_a_gpu_is_deterministic_and_rounds_as_asked_without_a_warning(tf32, precision):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        set_up_gpu(tf32, deterministic=True)
    assert settings() == {
        "deterministic": True,
        "fill": False,
        "benchmark": False,
        "precision": [precision] * 3,
        "workspace": ":4096:8",
    }


@pytest.mark.usefixtures("_restored")
def test_speed_may_be_preferred_and_ones_own_workspace_stays(monkeypatch):
    monkeypatch.setenv(WORKSPACE, ":16:8")
    set_up_gpu(tf32=True, deterministic=False)
    found = settings()
    assert (found["deterministic"], found["benchmark"]) == (False, True)
    assert found["workspace"] == ":16:8"


@pytest.mark.usefixtures("_restored")
def test_only_a_gpu_is_set_up(monkeypatch):
    before = settings()
    assert device_of(read(None, {"device": "cpu"})) == CPU
    assert settings() == before
    monkeypatch.setattr(device, "pick_device", torch.device)
    assert device_of(read(None, {"device": "cuda", "tf32": False})).type == "cuda"
    assert settings()["precision"] == ["ieee"] * 3


@pytest.mark.parametrize(
    ("gib", "activations", "batch"),
    [(64, 1000, 2000), (64, 1 << 20, 1024), (64, 1 << 24, 64), (16, 1 << 24, 16), (1, 1 << 30, 1)],
)
def test_a_gpu_evaluates_large_batches_that_fit(gib, activations, batch):
    assert batch_on_gpu(gib << 30, activations) == batch


def test_the_batch_changes_no_result(monkeypatch, network, data):
    vector = 2 * network.layout.to_vector(network.initial)
    expected = network.evaluate(vector, data)
    memory = 64 * 7 * network.twin().footprint.activations
    monkeypatch.setattr(network, "_memory", (0, memory))
    assert network._batch(1) == 7
    assert network.evaluate(vector, data) == pytest.approx(expected, rel=1e-6)
    fresh = network.twin()  # which has not been measured before
    assert fresh.evaluate(vector, data) == pytest.approx(expected, rel=1e-6)


def test_a_cpu_has_no_streams():
    assert side_stream(CPU) is None


def test_memory_that_pytorch_keeps_but_does_not_use_is_free(monkeypatch):
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda _: (10, 80))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda _: 60)
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda _: 25)
    assert device.gpu_memory(torch.device("cuda")) == (45, 80)
    assert device.gpu_memory(CPU) is None
