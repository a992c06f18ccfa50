"""Triton's convolutions, run by its interpreter, against PyTorch's."""

import importlib
import logging
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional

import fedalign.network
from fedalign.data import Dataset
from fedalign.network import convolution
from fedalign.network.convolution import Convolution, looped_conv, triton_conv, way_of, ways_of
from fedalign.network.kernels import Target
from fedalign.network.network import Network

pytest.importorskip("triton")
PLAIN, GPU = Convolution((1, 1), (0, 0), (1, 1)), torch.device("cuda")
NAMES = ("triton_kernels", "triton_conv")


@pytest.fixture(scope="module")
def kernels():
    """The module of kernels, interpreted; float32 is not rounded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        for name in NAMES:
            patch.delitem(sys.modules, f"fedalign.network.{name}", raising=False)
            patch.delattr(fedalign.network, name, raising=False)
        found = importlib.import_module("fedalign.network.triton_conv")
        patch.setattr(found, "_precision", lambda: "ieee")
        patch.setattr(convolution, "_triton", lambda: found)
        yield found
        for name in NAMES:
            sys.modules.pop(f"fedalign.network.{name}")
            delattr(fedalign.network, name)


CASES = {
    "plain": ((2, 2), (3, 5), (5, 6), (3, 3), Convolution((1, 1), (0, 0), (1, 1))),
    "padded": ((1, 2), (2, 17), (6, 6), (5, 5), Convolution((1, 1), (2, 2), (1, 1))),
    "all options": ((2, 2), (4, 6), (7, 6), (3, 2), Convolution((2, 1), (1, 0), (1, 2), 2)),
    "one pixel": ((2, 2), (16, 70), (6, 6), (1, 1), Convolution((2, 2), (0, 0), (1, 1))),
    "much padding": ((2, 2), (1, 6), (8, 8), (5, 5), Convolution((3, 2), (4, 5), (2, 1))),
    "whole image": ((2, 2), (8, 8), (4, 4), (4, 4), Convolution((1, 1), (0, 0), (1, 1))),
    "depthwise": ((2, 2), (8, 8), (7, 7), (3, 3), Convolution((2, 2), (1, 1), (1, 1), 8)),
}


def tensors(case):
    """Images with channels last, and kernels and biases that are views of a block, as in a run."""
    (models, examples), (source, target), sides, kernel, how = case
    torch.manual_seed(0)
    x = torch.randn(models * examples, *sides, source).movedim(-1, 1)
    shape = target, *kernel, source // how.groups
    size = torch.Size(shape).numel()
    block = torch.randn(models, 16 + size + 16 + target)
    weight = block[:, 16 : 16 + size].view(models, *shape).movedim(-1, 2)
    return x, weight, block[:, -target:], how


def outcome(conv, x, weight, bias, how, keep=0.0):
    """The output, and all gradients."""
    x = x.detach().clone().requires_grad_()
    places = [torch.full_like(value, 0.5).contiguous() for value in (weight, bias)]
    to_weight, to_bias = (Target(place, keep) for place in places)
    y = conv(x, weight, bias, to_weight, to_bias, how)
    (y * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum().backward()
    return y.detach(), x.grad, *places


@pytest.mark.parametrize(("case", "keep"), [*((case, 0.0) for case in CASES), ("plain", 0.5)])
@pytest.mark.usefixtures("kernels")
def test_every_pass_is_that_of_one_model_after_the_other(case, keep):
    arguments = tensors(CASES[case])
    found, expected = (outcome(conv, *arguments, keep) for conv in (triton_conv, looped_conv))
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("kernels")
def test_half_precision_differs_by_its_rounding():
    """In float16, since the interpreter does not know bfloat16."""
    x, weight, bias, how = tensors(CASES["padded"])
    with torch.autocast("cpu", torch.float16):
        found = outcome(triton_conv, x, weight, bias, how)
    expected = outcome(looped_conv, x, weight, bias, how)
    assert found[0].dtype == torch.float16
    for ours, theirs in zip(found, expected, strict=True):
        assert 0 < (ours - theirs).norm() <= 0.005 * theirs.norm()


def test_a_gradient_summed_in_parts_is_the_whole(kernels, monkeypatch):
    """Many pixels and few kernels: a GPU splits the sum."""
    case = (1, 4), (1, 2), (19, 19), (3, 3), Convolution((1, 1), (0, 0), (1, 1))
    monkeypatch.setattr(kernels, "_processors", lambda _device: 5)
    found, expected = (outcome(conv, *tensors(case)) for conv in (triton_conv, looped_conv))
    torch.testing.assert_close(found[2], expected[2], rtol=1e-4, atol=1e-2)


def test_float32_is_rounded_to_the_nearest_tf32(kernels, monkeypatch):
    """TF32 has 10 bits after the point; halves go away from zero, and NaN stays NaN."""
    monkeypatch.setattr(kernels, "_precision", lambda: "tf32")
    step = 2.0**-10
    given = [1 + 0.49 * step, 1 + 0.5 * step, -1 - 0.75 * step, 3e38, torch.inf, -torch.inf, 0.0]
    values = torch.tensor([*given, torch.nan])
    values = torch.cat([values, torch.tensor([0x7FFFFFFF]).int().view(torch.float32)])
    expected = torch.tensor([1.0, 1 + step, -1 - step])
    for found in (
        kernels.kernels_of(values.view(1, 1, 1, 3, 3)).flatten(),
        kernels.slopes_of(values.view(1, 1, 3, 3)).flatten(),
    ):
        assert torch.equal(found[:3], expected)
        assert found[3] == pytest.approx(3e38, rel=5e-4)
        assert found[4:7].tolist() == [torch.inf, -torch.inf, 0.0]
        assert found[7:].isnan().all()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, groups=2, bias=False)
        self.norm, self.head = nn.GroupNorm(2, 8), nn.Linear(8 * 3 * 3, 4)

    def forward(self, x):
        x = functional.max_pool2d(self.first(x).relu(), 2, 1, 1)
        return self.head(self.norm(self.second(x)).relu().flatten(1)[:, :72])


@pytest.mark.usefixtures("kernels")
def test_a_network_is_stacked_with_them(monkeypatch):
    images = torch.randint(0, 256, (6, 1, 8, 8), dtype=torch.uint8)
    data = Dataset(images, torch.arange(6) % 4, 4, (0.5,), (0.5,), "made up")
    ways = []
    monkeypatch.setattr(convolution, "way_of", lambda *_: ways.append(1) or "triton")
    network = Network(Net(), data, torch.device("cpu"))
    assert network.stacking.runner is not None
    assert not network.stacking.reason
    assert len(ways) >= 4  # two layers, two batches


@pytest.fixture
def no_gpu(monkeypatch):
    """A machine on which nothing is known yet, and whose GPU cannot be used."""
    convolution.triton_failure.cache_clear()
    monkeypatch.setattr(convolution, "_try_kernels", lambda _device: 1 / 0)
    yield
    convolution.triton_failure.cache_clear()


@pytest.mark.usefixtures("no_gpu")
def test_without_triton_convolutions_are_grouped_and_the_log_says_why(caplog):
    with caplog.at_level(logging.WARNING, "fedalign"):
        assert [way_of(GPU, (2, 8, 3, 3, 3), PLAIN) for _ in range(2)] == ["grouped", "grouped"]
    assert caplog.text.count("without Triton: ZeroDivisionError: division by zero") == 1


def test_the_way_depends_on_device_and_layer(monkeypatch):
    monkeypatch.setattr(convolution, "triton_failure", lambda: None)
    shape = 2, 8, 3, 3, 3
    assert way_of(torch.device("cpu"), shape, PLAIN) == "looped"
    assert way_of(GPU, shape, PLAIN) == "triton"
    assert way_of(GPU, shape, PLAIN._replace(groups=8)) == "grouped"  # depthwise
    assert way_of(GPU, shape[:-1], Convolution((1,), (0,), (1,))) == "grouped"  # of text
    assert way_of(GPU, (70_000, *shape[1:]), PLAIN) == "grouped"  # more than a grid has


def test_ways_are_told_by_layer():
    assert ways_of(Net()) == {"first": "looped", "second": "looped"}
