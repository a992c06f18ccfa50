"""Every model of fedalign, and what a user may write, trains by replayed steps."""

import pytest
import torch
from torch import nn

from clients.local import Local
from fedalign.algorithm import Stack
from fedalign.data import Dataset
from fedalign.masks.plan import MaskPlan
from fedalign.models.cnn import cnn
from fedalign.models.lenet import lenet5
from fedalign.models.mlp import mlp
from fedalign.models.resnet import resnet20
from fedalign.models.text import char_lstm, char_transformer
from fedalign.models.vgg import vgg
from fedalign.models.vit import vit
from fedalign.network.network import Network
from fedalign.network.stacked import Stacked
from fedalign.network.stacking import Stacking
from fedalign.rng import rng
from tests.tape import Tapes


class Scaled(nn.Module):
    """Weights used twice, a number, and dropout: for the first two the network is vmapped."""

    def __init__(self, shape, classes):
        super().__init__()
        self.one, self.two = nn.Linear(shape[1] * shape[2], 16), nn.Linear(16, 16)
        self.drop, self.out = nn.Dropout(0.3), nn.Linear(16, classes)
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        x = self.two(self.one(x.flatten(1)).relu()).relu()
        return self.out(self.drop(self.two(x).relu() * self.scale))


class Recurrent(nn.Module):
    """A GRU in both directions over the rows of an image."""

    def __init__(self, shape, classes):
        super().__init__()
        self.gru = nn.GRU(shape[2], 6, bidirectional=True, batch_first=True)
        self.out = nn.Linear(12, classes)

    def forward(self, x):
        return self.out(self.gru(x[:, 0])[0][:, -1])


def many_layers(shape, classes):
    return nn.Sequential(
        nn.Conv2d(shape[0], 8, 3, padding="same"), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=4), nn.GroupNorm(2, 8), nn.PReLU(), nn.Dropout2d(0.2),
        nn.Flatten(2), nn.Conv1d(8, 4, 3), nn.BatchNorm1d(4), nn.Flatten(), nn.LazyLinear(12),
        nn.LayerNorm(12), nn.RMSNorm(12), nn.Dropout(), nn.Linear(12, classes),
    )  # fmt: skip


class Attentive(nn.Module):
    """PyTorch's own attention over the rows of an image."""

    def __init__(self, shape, classes):
        super().__init__()
        self.attention = nn.MultiheadAttention(shape[2], 2, batch_first=True)
        self.out = nn.Linear(shape[2], classes)

    def forward(self, x):
        x = x[:, 0]
        return self.out(self.attention(x, x, x)[0].mean(1))


IMAGES = {
    "mlp": lambda **k: mlp(**k, width=16),
    "lenet5": lenet5,
    "cnn": cnn,
    **{f"resnet20 {n}": lambda n=n, **k: resnet20(**k, norm=n) for n in ("none", "batch", "group")},
    **{f"vgg {n}": lambda n=n, **k: vgg(**k, width=8, norm=n) for n in ("none", "batch", "group")},
    "vit": lambda **k: vit(**k, width=16, depth=2),
    "many layers": many_layers,
    "vmapped": Scaled,
    "gru": Recurrent,
    "attention": Attentive,
}
TEXT = {
    "char-lstm": lambda **k: char_lstm(**k, width=8),
    "char-transformer": lambda **k: char_transformer(**k, width=8),
}
COUNTS = [8, 6, 3]  # no batch of one, which BatchNorm may refuse


def data(name):
    draw = torch.Generator().manual_seed(0)
    if name in TEXT:
        codes = torch.randint(0, 12, (40, 10), generator=draw).to(torch.uint8)
        return Dataset(codes, torch.arange(40) % 12, 12, (), (), "made up")
    side = 28 if name in ("lenet5", "cnn") else 8
    images = torch.randint(0, 256, (40, 1, side, side), generator=draw).to(torch.uint8)
    return Dataset(images, torch.arange(40) % 10, 10, (0.5,), (0.5,), "made up")


def network_of(name, examples):
    torch.manual_seed(0)
    build = (IMAGES | TEXT)[name]
    module = build(shape=examples.spec.shape, classes=examples.classes)
    if any(isinstance(layer, nn.LazyLinear) for layer in module.modules()):
        module(torch.zeros(2, *examples.spec.shape))
    return Network(module, examples, torch.device("cpu"))


SLOW = {"resnet20 batch", "vgg batch", "resnet20 none", "resnet20 group", "vgg none", "vgg group"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in IMAGES | TEXT],
)
def test_replayed_steps_are_plain_steps(name):
    examples = data(name)
    network = network_of(name, examples)
    if network.stacked is None:  # an LSTM: on a CPU PyTorch's own is faster
        network.stacking = Stacking(Stacked(network.module, network.layout, draws=network.draws))
    ends = []
    for refuses in (False, True):
        network.graphs = tapes = Tapes(refuses)
        for number in (1, 2):
            start = network.receive(network.initial)
            draw = rng(0, "rows", number)
            stack = Stack(
                network, examples, start, start.repeat(3, 1),
                [draw.permutation(40)[:count] for count in COUNTS],
                [rng(0, "batches", number, k) for k in range(3)],
                [MaskPlan(0, 0, 0.4, "complement_half", number)] * 3, number, 2,
            )  # fmt: skip
            losses = Local(batch_size=4, lr=0.01).train(stack).losses
            ends += [stack.block, losses]
        assert bool(tapes.tapes) is not refuses
        assert refuses or not tapes.refused
    half = len(ends) // 2
    for ours, theirs in zip(ends[:half], ends[half:], strict=True):
        assert torch.isfinite(ours).all()
        assert torch.equal(ours, theirs)
