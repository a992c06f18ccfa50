"""What only a real GPU can show: the same numbers as on the CPU, alone, stacked and in bf16."""

import numpy as np
import pytest
import torch

from clients.local import Local
from fedalign.algorithm import Stack
from fedalign.data import Dataset
from fedalign.masks.plan import MaskPlan
from fedalign.models.cnn import cnn
from fedalign.models.resnet import resnet20
from fedalign.network.network import Network
from fedalign.rng import rng

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]
MODELS = {"cnn": cnn, "resnet20": resnet20}


def train(name, device, count, precision="float32"):
    generator, labels = torch.Generator().manual_seed(0), torch.arange(200) % 10
    images = torch.randint(0, 256, (200, 1, 28, 28), generator=generator).to(torch.uint8)
    place = torch.device(device)
    data = Dataset(images.to(place), labels.to(place), 10, (0.5,), (0.5,), "made up")
    torch.manual_seed(0)
    network = Network(MODELS[name](shape=(1, 28, 28), classes=10), data, place, precision)
    start = network.receive(network.initial)
    block = start.repeat(count, 1)
    rows = [np.arange(40 - k) for k in range(count)]
    plan, streams = MaskPlan(0, 0, 0.4, "complement_half"), [rng(0, "b", k) for k in range(count)]
    stack = Stack(network, data, start, block, rows, streams, [plan] * count)
    losses = Local(lr=0.01).train(stack).losses
    return block.cpu(), losses, network.stacked is not None


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("count", [1, 4])
def test_a_gpu_trains_as_the_cpu_does(name, count):
    ours, losses, stacked = train(name, "cuda", count)
    theirs, expected, _ = train(name, "cpu", count)
    assert stacked
    torch.testing.assert_close(losses, expected, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-2)


def test_bf16_is_near():
    _, exact, _ = train("cnn", "cuda", 4)
    _, rough, _ = train("cnn", "cuda", 4, "bf16")
    torch.testing.assert_close(rough, exact, rtol=0.1, atol=0.1)
