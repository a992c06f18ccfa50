"""A second way of running a network is believed only if it computes what the module does."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from fedalign.data import Dataset
from fedalign.models.resnet import resnet20
from fedalign.network.network import Network
from fedalign.network.stacked import Stacked
from fedalign.network.vmapped import Vmapped
from fedalign.settings.registry import load

CPU = torch.device("cpu")


class BehindItsBack(nn.Module):
    """Uses a layer's weight without calling the layer."""

    def __init__(self, drop=0.0):
        super().__init__()
        self.fc, self.drop = nn.Linear(36, 3), nn.Dropout(drop)

    def forward(self, x):
        return functional.linear(self.drop(x.flatten(1)), self.fc.weight, self.fc.bias)


class Scaled(nn.Module):
    """Has a parameter that its stacked form cannot expand, dropout, and one weight twice."""

    def __init__(self):
        super().__init__()
        self.scale, self.drop = nn.Parameter(torch.rand(36)), nn.Dropout(0.3)
        self.one, self.two, self.head = nn.Linear(36, 36), nn.Linear(36, 36), nn.Linear(36, 3)
        self.two.weight = self.one.weight

    def forward(self, x):
        x = self.drop(x.flatten(1) * self.scale)
        return self.head(self.drop(self.two(self.one(x).relu())).relu())


class Transposing(nn.Module):
    """Calls a layer with the examples on the second axis."""

    def __init__(self):
        super().__init__()
        self.rows, self.fc = nn.Linear(6, 6), nn.Linear(36, 3)

    def forward(self, x):
        x = self.rows(x[:, 0].transpose(0, 1)).transpose(0, 1)
        return self.fc(x.relu().flatten(1))


class Skipping(nn.Module):
    """Adds its input to a later layer."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(36, 36), nn.Linear(36, 3)

    def forward(self, x):
        x = x.flatten(1)
        return self.two(x + self.one(x).relu())


class Kept(nn.Sequential):
    """Reads what a layer puts out after the ReLU behind it has run."""

    def forward(self, x):
        flatten, one, relu, two = self
        hidden = one(flatten(x))
        return two(relu(hidden) - hidden)


class Crossed(nn.Module):
    """Adds a small share of the whole batch to each example."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(36, 3)

    def forward(self, x):
        return self.fc((x + 0.02 * x.mean(0)).flatten(1))


def build(kind, data):
    torch.manual_seed(0)
    return Network(kind(), data, CPU)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (BehindItsBack, "stacked, it fails with RuntimeError"),
        (lambda: BehindItsBack(0.3), "stacked, it fails with RuntimeError"),
        (Scaled, "the model's Scaled has a parameter 'scale' (36,)"),
        (Transposing, "stacked, the losses differ, first in layer 'rows' (Linear("),
    ],
)
def test_what_cannot_be_stacked_is_vmapped(kind, reason, data, caplog):
    with caplog.at_level("INFO", "fedalign"):
        network = build(kind, data)
        assert isinstance(network.stacked, Stacked)
    assert f"clients train together by vmap, since {reason}" in caplog.text
    assert network.stacking.reason.startswith(reason)
    keys = torch.tensor([[1, 2], [-3, 4], [5, 6]], dtype=torch.int32)
    block = network.layout.to_vector(network.initial).repeat(3, 1) + torch.rand(3, 1) / 10
    images, labels = data.images[:15].view(3, 5, 1, 6, 6), data.labels[:15].view(3, 5).clone()
    labels[1, 3:] = -1
    found, sizes, loss = torch.ones_like(block), [5, 3, 5], quadratic if kind is Scaled else None
    network.draws.keys = keys
    losses = network.gradients(block, images, labels, sizes, found, 0.5, loss)
    for k, size in enumerate(sizes):
        network.draws.keys, alone = keys[k : k + 1], torch.ones_like(block[:1])
        own = images[k : k + 1, :size], labels[k : k + 1, :size], [size]
        alone_loss = network.gradients(block[k : k + 1], *own, alone, 0.5, loss)
        torch.testing.assert_close(losses[k], alone_loss[0])
        for entry in network.layout.parameters:
            ours, theirs = entry.view(found)[k], entry.view(alone)[0]
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def quadratic(logits, labels, features, _rows):
    counted = labels >= 0
    return counted * (logits.square().sum(2) + features.square().mean(2))


def test_it_is_the_vmapped_module_that_runs(data):
    network = build(Scaled, data)
    assert isinstance(network.stacked.twin, Vmapped)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (lambda: nn.Sequential(nn.ConvTranspose2d(1, 2, 3), nn.Flatten(), nn.Linear(128, 3)),
         "layer '0' (ConvTranspose2d(1, 2, kernel_size=(3, 3), stride=(1, 1))) has a parameter"),
        (lambda: nn.Sequential(nn.BatchNorm2d(1, momentum=None), nn.Flatten(), nn.Linear(36, 3)),
         "layer '0' (BatchNorm2d(1, eps=1e-05, momentum=None, affine=True"),
        (Crossed, "stacked, the losses differ, first in layer 'fc' (Linear("),
    ],
)  # fmt: skip
def test_what_nothing_runs_at_once_is_trained_one_by_one_and_named(kind, reason, data, caplog):
    network = build(kind, data)
    assert network.stacked is None
    assert network.stacking.reason.startswith(reason)
    assert f"clients train one by one, since {reason}" in caplog.text


class Averaging(nn.Module):
    """Its last linear layer sees a mean over the batch, which no logit depends on."""

    def __init__(self):
        super().__init__()
        self.fc, self.last = nn.Linear(36, 3), nn.Linear(3, 3)

    def forward(self, x):
        logits = self.fc(x.flatten(1))
        return logits + 0 * self.last(logits.mean(0, keepdim=True).expand_as(logits))


def test_features_are_compared_where_a_loss_uses_them(data):
    assert build(Averaging, data).stacked is not None
    network = Network(Averaging(), data, CPU, uses_features=True)
    assert network.stacked is None
    assert network.stacking.reason.startswith("stacked, the losses differ")
    plain = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    assert Network(plain, data, CPU, uses_features=True).stacking.reason == ""


class Wrong(Stacked):
    """Spoils one gradient of one model, or one loss."""

    what = "fc"

    def gradients(self, block, inputs, labels, sizes, out, *others):
        losses = super().gradients(block, inputs, labels, sizes, out, *others)
        if self.what == "loss":
            losses[-1] += 0.01
        elif self.what == "one":
            losses = losses[:1]
        elif self.what == "norm.running_mean":
            next(e for e in self._layout.buffers if e.name == self.what).view(block)[1, 0] += 0.01
        else:
            entry = next(e for e in self._layout.parameters if e.name == self.what)
            entry.view(out)[1].flatten()[0] += 0.2 * entry.view(out)[1].norm()
        return losses


@pytest.mark.parametrize(
    ("what", "told"),
    [("loss", "the losses differ"), ("one", "the losses are (1,), not (2,)"),
     ("norm.running_mean", "the buffer 'norm.running_mean' differs"),
     *((name, f"the gradient of {name!r} differs")
       for name in ("conv.weight", "norm.bias", "fc.bias"))],
)  # fmt: skip
def test_a_small_error_in_one_place_is_found(what, told, network):
    trial = network._trial
    assert trial.of_training(Stacked(network.module, network.layout)) == ""
    wrong = Wrong(network.module, network.layout)
    wrong.what = what
    assert trial.of_training(wrong) == told + (", in the model's Small" * ("loss" in told))


def test_a_deep_network_that_magnifies_rounding_is_stacked():
    images = torch.randint(0, 256, (8, 1, 28, 28), generator=torch.Generator().manual_seed(0))
    data = Dataset(images.to(torch.uint8), torch.arange(8), 8, (0.3,), (0.2,), "made up")
    assert build(lambda: resnet20((1, 28, 28), 8), data).stacked is not None


def test_keys_of_the_step_that_asks_are_given_back(network):
    keys = network.draws.keys = torch.ones(1, 2, dtype=torch.int32)
    assert network.stacked is not None
    assert network.draws.keys is keys


@pytest.mark.parametrize(
    ("kind", "place"),
    [(Skipping, "the model's Skipping"), (BehindItsBack, "the model's BehindItsBack"),
     (Transposing, "layer 'rows' (Linear("), (Kept, "first in layer '3' (Linear("),
     (lambda: nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)), None)],
)  # fmt: skip
def test_mixes_that_would_be_wrong_are_evaluated_one_by_one(kind, place, data, caplog):
    layers = nn.Flatten(), nn.Linear(36, 9), nn.ReLU(), nn.Linear(9, 3)
    network = build(lambda: kind(*layers) if kind is Kept else kind(), data)
    assert (network.mixes is None) == bool(place)
    if place:
        assert "mixes of models are evaluated one by one, since together" in caplog.text
        assert place in network.mixing.reason


def test_an_error_of_the_device_is_not_taken_for_a_difference(network):
    class Full:
        def gradients(self, *_):
            raise torch.OutOfMemoryError("full")

    with pytest.raises(torch.OutOfMemoryError):
        network._trial.of_training(Full())


class Counting(nn.Module):
    """Computes something else in each call."""

    def __init__(self):
        super().__init__()
        self.fc, self.calls = nn.Linear(36, 3), 0

    def forward(self, x):
        self.calls += 1
        return self.fc(x.flatten(1)) * (1 + self.calls % 3)


def test_what_differs_from_itself_is_not_stacked(data, caplog):
    network = build(Counting, data)
    assert network.stacked is None
    assert "one by one, since the network changes its 'calls' when it runs" in caplog.text


class Deciding(nn.Module):
    """Does something else for a dark batch, or for small weights."""

    def __init__(self, decide):
        super().__init__()
        self.one, self.two, self.decide = nn.Linear(36, 9), nn.Linear(9, 3), decide

    def forward(self, x):
        hidden = self.one(x.flatten(1))
        return self.two(hidden.relu() if self.decide(self, x) else hidden.tanh())


class Choosing(Deciding):
    """Does so without a decision in Python."""

    def forward(self, x):
        hidden = self.one(x.flatten(1))
        return self.two(torch.where(x.mean() > 0, hidden.relu(), hidden.tanh()))


@pytest.mark.parametrize(
    "decide",
    [
        lambda _, x: x.mean() > 0,
        lambda _, x: x.std().item() > 0.5,
        lambda _, x: float(x.max()) > 3,
        lambda own, _: torch.equal(own.one.bias, own.one.bias.abs()),
        lambda own, x: own.training and x.flatten().tolist()[0] > 0,
    ],
)
def test_code_that_decides_by_numbers_sees_one_model_at_a_time(decide, data):
    network = build(lambda: Deciding(decide), data)
    assert network.stacked is None
    assert "the network's code reads numbers out of tensors" in network.stacking.reason
    assert "test_agreement.py:" in network.stacking.reason
    in_training_only = "training" in decide.__code__.co_names
    assert (network.mixes is None) is not in_training_only


def test_a_batch_that_decides_is_found_where_code_does_not(data):
    network = build(lambda: Choosing(None), data)
    assert network.stacked is None
    assert network.stacking.reason.startswith("stacked, the losses differ")


@pytest.mark.parametrize("name", ["mlp", "cnn", "vgg", "vit", "lenet5", "resnet20"])
def test_no_model_that_comes_with_fedalign_decides(name):
    images = torch.zeros((8, 3, 32, 32), dtype=torch.uint8)
    data = Dataset(images, torch.arange(8), 8, (0.3,) * 3, (0.2,) * 3, "made up")
    small = {"vgg": {"depth": 11, "width": 4, "norm": "batch"}, "mlp": {"depth": 1, "width": 4}}
    module = load("models", name)(shape=(3, 32, 32), classes=8, **small.get(name, {}))
    assert not any(Network(module, data, CPU).traits.reads.values())
