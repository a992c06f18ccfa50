import pytest
import torch
from torch.nn import functional

from fedalign.models.resnet import Block, resnet20

# Weights of the 19 convolutions, then of the linear layer, for a three-channel image.
CONVOLUTIONS = 27 * 16 + 6 * 9 * 16**2 + 9 * (16 * 32 + 5 * 32**2) + 9 * (32 * 64 + 5 * 64**2)
LINEAR = 64 * 10 + 10
CHANNELS = 7 * 16 + 6 * 32 + 6 * 64


@pytest.mark.parametrize(
    ("norm", "per_channel"),
    [("batch", 2), ("group", 2), ("none", 1)],
)
def test_number_of_parameters(norm, per_channel):
    model = resnet20((3, 32, 32), 10, norm=norm)
    count = sum(p.numel() for p in model.parameters())
    assert count == CONVOLUTIONS + LINEAR + per_channel * CHANNELS
    assert count == {2: 269_722, 1: 269_034}[per_channel]


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (2, 15, 21)])
@pytest.mark.parametrize("norm", ["none", "batch", "group"])
def test_any_image_gives_logits(shape, norm):
    assert resnet20(shape, 7, norm=norm)(torch.randn(2, *shape)).shape == (2, 7)


def test_a_widening_block_without_residual_subsamples_and_pads_with_zeros():
    block = Block(2, 4, "none")
    for parameter in block.parameters():
        torch.nn.init.zeros_(parameter)
    image = torch.arange(1.0, 33.0).reshape(1, 2, 4, 4)
    expected = torch.zeros(1, 4, 2, 2)
    expected[0, 1] = torch.tensor([[1.0, 3.0], [9.0, 11.0]])
    expected[0, 2] = torch.tensor([[17.0, 19.0], [25.0, 27.0]])
    assert torch.equal(block(image), expected)


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("norm", ["none", "batch", "group"])
def test_trains(norm):
    torch.manual_seed(0)
    labels = torch.arange(16) % 4
    images = torch.randn(4, 1, 8, 8)[labels] + 0.3 * torch.randn(16, 1, 8, 8)
    model = resnet20((1, 8, 8), 4, norm=norm)
    optimiser = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    losses = []
    for _ in range(25):
        loss = functional.cross_entropy(model(images), labels)
        losses.append(loss.item())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert losses[0] < 4
    assert losses[-1] < 0.3


def test_torchs_generator_alone_decides_the_weights():
    def weights(seed):
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in resnet20((3, 32, 32), 10).parameters()])

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))
