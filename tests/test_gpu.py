"""What only a real GPU can show: the same numbers as on the CPU, alone, stacked and in bf16."""

import numpy as np
import pytest
import torch

from clients.calibrated import BalancedSoftmax, FedLC
from clients.fedprox import FedProx
from clients.fedsam import FedSAM
from clients.local import Local
from clients.moon import MOON
from fedalign.algorithm import Stack
from fedalign.data import Dataset
from fedalign.masks.plan import MaskPlan
from fedalign.models.cnn import cnn
from fedalign.models.resnet import resnet20
from fedalign.network.graphs import Graphs, free_memory
from fedalign.network.network import Network
from fedalign.rng import rng

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]
MODELS = {"cnn": cnn, "resnet20": resnet20}


def examples(place):
    generator, labels = torch.Generator().manual_seed(0), torch.arange(200) % 10
    images = torch.randint(0, 256, (200, 1, 28, 28), generator=generator).to(torch.uint8)
    return Dataset(images.to(place), labels.to(place), 10, (0.5,), (0.5,), "made up")


def train(name, device, count, precision="float32", algorithm=Local):
    place = torch.device(device)
    data = examples(place)
    torch.manual_seed(0)
    network = Network(MODELS[name](shape=(1, 28, 28), classes=10), data, place, precision)
    start = network.receive(network.initial)
    block = start.repeat(count, 1)
    rows = [np.arange(40 - k) for k in range(count)]
    plan, streams = MaskPlan(0, 0, 0.4, "complement_half"), [rng(0, "b", k) for k in range(count)]
    stack = Stack(network, data, start, block, rows, streams, [plan] * count)
    losses = algorithm(lr=0.01).train(stack).losses
    return block.cpu(), losses, network


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("count", [1, 4])
def test_a_gpu_trains_as_the_cpu_does(name, count):
    ours, losses, network = train(name, "cuda", count)
    theirs, expected, _ = train(name, "cpu", count)
    assert network.stacked
    torch.testing.assert_close(losses, expected, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("name", MODELS)
def test_the_kernels_of_stacks_measure_a_model_as_the_network_itself_does(name):
    (vector,), _, network = train(name, "cuda", 1)
    data = examples(network.device)
    found = network.evaluate(vector, data)
    assert network.mixes.count == 1
    network.__dict__["graphs"] = None  # then it runs itself
    assert found == pytest.approx(network.evaluate(vector, data), rel=1e-2, abs=1e-2)


@pytest.mark.parametrize("algorithm", [Local, FedLC, BalancedSoftmax, MOON, FedSAM, FedProx])
def test_steps_are_captured(algorithm):
    _, _, network = train("cnn", "cuda", 4, algorithm=algorithm)
    assert network.graphs is not None
    assert not network.graphs.refused


def test_a_capture_that_fails_spoils_nothing():
    graphs, place = Graphs(), torch.zeros(4, device="cuda")
    assert graphs.capture(lambda: place.add_(float(place.sum())), [place]) is None
    assert "cannot be captured" in graphs.refused[0]
    free_memory()
    graph = graphs.capture(lambda: place.add_(1), [place])
    assert graph is not None
    graph.replay()
    assert place.tolist() == [2.0] * 4


def test_bf16_is_near():
    _, exact, _ = train("cnn", "cuda", 4)
    _, rough, _ = train("cnn", "cuda", 4, "bf16")
    torch.testing.assert_close(rough, exact, rtol=0.1, atol=0.1)
