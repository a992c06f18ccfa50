"""Many models at once compute what each would compute alone."""

import re

import pytest
import torch
from torch import nn
from torch.nn import functional

from fedalign.data import Dataset
from fedalign.models.cnn import cnn
from fedalign.models.lenet import lenet5
from fedalign.models.mlp import mlp
from fedalign.models.resnet import resnet20
from fedalign.network.layout import Layout
from fedalign.network.mixtures import Mixtures
from fedalign.network.network import Network
from fedalign.network.stacked import Stacked

SHAPE = {"shape": (1, 28, 28), "classes": 10}
MODELS = {
    "mlp": lambda: mlp(**SHAPE),
    "lenet5": lambda: lenet5(**SHAPE),
    "cnn": lambda: cnn(**SHAPE),
    "resnet20 batch": lambda: resnet20(**SHAPE, norm="batch"),
    "resnet20 group": lambda: resnet20(**SHAPE, norm="group"),
    "resnet20 none": lambda: resnet20(**SHAPE, norm="none"),
    "no biases": lambda: nn.Sequential(
        nn.Conv2d(1, 3, 3, stride=2, padding=1, bias=False),
        nn.BatchNorm2d(3, affine=False),
        nn.GroupNorm(3, 3, affine=False),
        nn.Flatten(),
        nn.Linear(3 * 14 * 14, 10, bias=False),
    ),
    "only a layer": lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 10)),
}


def case(build, count=3, batch=4):
    torch.manual_seed(0)
    module = build()
    layout = Layout.of(module)
    block = layout.flatten(module).repeat(count, 1)
    noise = layout.spread(0.02 * torch.randn(count, layout.num_parameters))
    block[:, : layout.parameter_size] += noise
    images = torch.randn(count * batch, 1, 28, 28)
    return module, layout, block, images, torch.randint(0, 10, (count, batch))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_each_model_as_if_alone(name, channels_last):
    module, layout, block, images, labels = case(MODELS[name])
    if channels_last:
        images = images.to(memory_format=torch.channels_last)
    deep = name == "resnet20 batch"  # where rounding grows from layer to layer
    sizes = [4, 3, 2] if deep else [4, 3, 1]
    for row, size in enumerate(sizes):
        labels[row, size:] = -1
    together, found = block.clone(), layout.spread(torch.full((3, layout.num_parameters), 7.0))
    losses = Stacked(module, layout).gradients(together, images, labels, sizes, found)
    for row, size in enumerate(sizes):
        alone, gradient = block[row].clone(), torch.zeros(layout.parameter_size)
        layout.bind(module, alone)
        layout.bind_gradients(module, gradient)
        own = images[4 * row : 4 * row + size]
        loss = functional.cross_entropy(module.train()(own), labels[row, :size])
        loss.backward()
        assert losses[row].item() == pytest.approx(loss.item(), rel=1e-4)
        assert (found[row] - gradient).norm() <= (1e-2 if deep else 1e-3) * gradient.norm()
        torch.testing.assert_close(together[row], alone, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("groups", [1, 2, 6])
def test_a_grouped_convolution_is_the_same(count, groups):
    """What a GPU runs, on the CPU."""
    from fedalign.network.convolution import Convolution, grouped_conv, looped_conv
    from fedalign.network.kernels import Target

    torch.manual_seed(0)
    x = torch.randn(count * 2, 6, 9, 9)
    weight, bias = torch.randn(count, 12, 6 // groups, 3, 3), torch.randn(count, 12)
    found = []
    for kind in (looped_conv, grouped_conv):
        own = [tensor.clone().requires_grad_() for tensor in (x, weight, bias)]
        to = torch.zeros_like(weight), torch.zeros_like(bias)
        targets = (Target(place, 0.0) for place in to)
        y = kind(*own, *targets, Convolution((2, 1), (1, 0), (1, 1), groups))
        y.square().sum().backward()
        found.append([y, own[0].grad, *to])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["lenet5", "resnet20 batch", "resnet20 group", "no biases"])
@pytest.mark.parametrize("alone", [False, True])
def test_gradients_are_added_to_what_is_kept(name, alone):
    torch.manual_seed(0)
    images = torch.randint(0, 256, (2, 4, 1, 28, 28), dtype=torch.uint8)
    data = Dataset(images[0], torch.arange(4), 10, (0.3,), (0.2,), "made up")
    network = Network(MODELS[name](), data, torch.device("cpu"))
    count = 1 if alone else 2
    block = network.layout.to_vector(network.initial).repeat(count, 1)
    labels = torch.randint(0, 10, (2, 4))
    start = network.layout.spread(torch.randn(count, network.layout.num_parameters))
    found = {}
    for keep in (0.0, 0.5):
        found[keep] = start.clone()
        arguments = images[:count], labels[:count], [4] * count, found[keep]
        network.gradients(block.clone(), *arguments, keep)
    torch.testing.assert_close(found[0.5], found[0.0] + 0.5 * start, rtol=1e-4, atol=1e-5)


class Unused(nn.Module):
    def __init__(self):
        super().__init__()
        self.head, self.spare = nn.Linear(36, 3), nn.Linear(2, 2)

    def forward(self, x):
        return self.head(x.flatten(1))


def test_weights_that_nothing_uses_have_no_gradient(data):
    """Stacked, what is in place of their gradients would be taken for it."""
    network = Network(Unused(), data, torch.device("cpu"))
    block = network.layout.to_vector(network.initial).repeat(2, 1)
    gradient = torch.full((2, network.layout.parameter_size), 7.0)
    images, labels = data.images[:4].expand(2, -1, -1, -1, -1), data.labels[:4].expand(2, -1)
    network.gradients(block, images, labels, [4, 4], gradient)
    spare = [e for e in network.layout.parameters if e.name.startswith("spare")]
    assert all((e.view(gradient) == 0).all() for e in spare)


class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(784))

    def forward(self, x):
        return x.flatten(1) * self.scale


@pytest.mark.parametrize(
    ("module", "named"),
    [
        (Own(), "Own has a parameter 'scale' (784,)"),
        (nn.Sequential(nn.BatchNorm2d(1, momentum=None)), "layer '0' (BatchNorm2d(1"),
        (
            nn.Sequential(
                nn.BatchNorm1d(3, affine=False, track_running_stats=False), nn.Linear(3, 3)
            ),
            "layer '0'",
        ),
        (nn.utils.spectral_norm(nn.Linear(3, 3)), "the model's Linear has options"),
        (nn.Sequential(nn.Linear(3, 3), nn.LSTM(3, 3, proj_size=2)), "layer '1' (LSTM(3, 3"),
        (nn.Sequential(nn.Embedding(3, 3, sparse=True)), "layer '0' (Embedding(3, 3, sparse"),
        (
            nn.Sequential(nn.Sequential(nn.ConvTranspose2d(1, 4, 3))),
            "layer '0.0' (ConvTranspose2d(",
        ),
        (nn.MultiheadAttention(4, 2, kdim=3), "the model's MultiheadAttention"),
        (nn.Sequential(nn.ParameterList([torch.ones(3)])), "layer '0' (ParameterList("),
    ],
)
def test_what_it_does_not_know_it_refuses_by_name(module, named):
    with pytest.raises(TypeError, match=re.escape(named)):
        Stacked(module, Layout.of(module))


class Held(nn.Module):
    """Calls its layers by a list of its own, and asks for their options."""

    def __init__(self):
        super().__init__()
        self.hidden, self.out = nn.Linear(36, 8), nn.Linear(8, 3)
        self.layers = [self.hidden, self.out]

    def forward(self, x):
        for layer in self.layers:
            x = layer(x.reshape(-1, layer.in_features))
        return x


def test_layers_are_stacked_wherever_a_module_holds_them(data):
    network = Network(Held(), data, torch.device("cpu"))
    assert network.stacked is not None


class Mixing(nn.Module):
    """Subtracts what the batch has in common."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(36, 3)

    def forward(self, x):
        return self.fc((x - x.mean(0)).flatten(1))


def test_what_is_not_the_same_at_once_is_trained_one_by_one(data, caplog):
    torch.manual_seed(0)
    network = Network(Mixing(), data, torch.device("cpu"))
    assert network.stacked is None
    assert network.stacking.reason.startswith("stacked, the losses differ, first in layer 'fc'")
    assert "clients train one by one, since stacked, the losses differ" in caplog.text
    block = network.layout.to_vector(network.initial).repeat(2, 1)
    found = torch.zeros(2, network.layout.parameter_size)
    images, labels = data.images[:8].view(2, 4, 1, 6, 6), data.labels[:8].view(2, 4)
    network.gradients(block, images, labels, [4, 4], found)
    alone = torch.zeros(1, network.layout.parameter_size)
    network.gradients(block[1:], images[1:], labels[1:], [4], alone)
    assert torch.equal(found[1], alone[0])


def hooked(limit):
    """A network whose first layer has a hook that matters only for large weights."""
    module = nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 3))
    module[1].register_forward_hook(lambda _module, _inputs, out: out.clamp(-limit, limit))
    return module


def test_hooks_of_a_layer_run_in_its_stacked_form_too(data):
    network = Network(hooked(0.5), data, torch.device("cpu"))
    assert network.stacked is not None
    start = network.layout.to_vector(network.initial)
    block = torch.stack([50 * start, 80 * start])
    images = torch.randint(0, 256, (2, 4, 1, 6, 6), dtype=torch.uint8)
    labels = torch.zeros(2, 4, dtype=torch.int64)
    losses = [
        network.gradients(rows.clone(), own, own_labels, [4] * len(rows), torch.empty_like(rows))
        for rows, own, own_labels in [
            (block, images, labels),
            (block[:1], images[:1], labels[:1]),
            (block[1:], images[1:], labels[1:]),
        ]
    ]
    torch.testing.assert_close(losses[0], torch.cat(losses[1:]))
    mixed = network.evaluate_mixes(block, None, data, 20)
    alone = [network.evaluate(vector, data, 20) for vector in block]
    torch.testing.assert_close(mixed.float(), torch.tensor(alone))  # float32 computed them


def test_a_twin_pools_before_it_rectifies_with_the_same_bits(data, monkeypatch):
    def build():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(27, 3),
        )

    def numbers():
        network = Network(build(), data, torch.device("cpu"))
        stacked, mixtures = network.stacked, Mixtures(network.module, network.layout)
        start = network.layout.to_vector(network.initial)
        block, out = torch.stack([start, 2 * start]), torch.zeros(2, len(start))
        images = torch.randint(0, 256, (2, 4, 1, 6, 6), dtype=torch.uint8)
        losses = network.gradients(block, images, torch.ones(2, 4).long(), [4, 4], out)
        mixtures.load(block, None)
        kinds = [[type(layer) for layer in twin.twin][1:3] for twin in (stacked, mixtures)]
        return kinds, losses, out, mixtures.logits(images[0].float())

    torch.manual_seed(1)
    kinds, *found = numbers()
    assert kinds == [[nn.MaxPool2d, nn.ReLU]] * 2
    monkeypatch.setattr("fedalign.network.twins._may_swap", lambda *_: False)
    torch.manual_seed(1)
    kinds, *expected = numbers()
    assert kinds == [[nn.ReLU, nn.MaxPool2d]] * 2
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize(
    "pool", [nn.MaxPool2d(2, return_indices=True), nn.MaxPool2d(2, dilation=2, padding=1)]
)
def test_a_twin_swaps_nothing_whose_result_would_differ(pool):
    module = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), pool)
    twin = Stacked(module, Layout.of(module)).twin
    assert [type(layer) for layer in twin][1:] == [nn.ReLU, nn.MaxPool2d]


def test_a_network_may_ask_for_the_device_of_its_first_parameter(data):
    class Asking(nn.Sequential):
        def forward(self, x):
            return super().forward(x.to(next(self.parameters()).device))

    network = Network(Asking(nn.Flatten(), nn.Linear(36, 3)), data, torch.device("cpu"))
    assert network.stacked is not None
