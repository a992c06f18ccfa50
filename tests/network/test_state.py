"""What a module keeps beside its weights does not pass from client to client, nor to measuring."""

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from fedalign.network.network import Network
from fedalign.network.state import State

CPU = torch.device("cpu")


class Own(nn.Module):
    """A linear layer, and something that its forward pass changes or draws from."""

    def __init__(self):
        super().__init__()
        self.fc, self.norm = nn.Linear(36, 3), nn.BatchNorm1d(3, momentum=None)
        self.calls, self.seen, self.last = 0, {"means": []}, None
        self.draw = np.random.default_rng(1)
        self.generator, self.chance = torch.Generator().manual_seed(2), random.Random(3)
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("mean", torch.zeros(3))

    def change(self, x):
        return x

    def forward(self, x):
        return self.change(self.fc(x.flatten(1)))


class Counts(Own):
    def change(self, x):
        self.calls += 1
        return x * self.calls


class CountsInBuffer(Own):
    def change(self, x):
        self.count += 1
        return x * self.count


class AssignsBuffer(Own):
    def change(self, x):
        self.count = self.count + 1
        return x * self.count


class Remembers(Own):
    def change(self, x):
        self.seen["means"].append(x.detach().mean())
        return x + sum(self.seen["means"])


class Grows(Own):
    def change(self, x):
        self.late = getattr(self, "late", 0) + 1
        return x * self.late


class DrawsItself(Own):
    def change(self, x):
        return x * self.draw.random() * torch.rand(1, generator=self.generator)


class DrawsByChance(Own):
    def change(self, x):
        return x * self.chance.random()


class Averages(Own):
    def change(self, x):
        return self.norm(x)


class DropsAlways(Own):
    def change(self, x):
        return functional.dropout(x, 0.5, training=True)


class DrawsFromNumPy(Own):
    def change(self, x):
        return x * np.random.rand()


class DrawsFromPython(Own):
    def change(self, x):
        return x * random.random()


class ReplacesMean(Own):
    def change(self, x):
        if self.training:
            self.mean = 0.5 * self.mean + x.detach().mean(0)
        return x - self.mean


KEEPS = [Counts, CountsInBuffer, AssignsBuffer, Remembers, Grows, DrawsItself, DrawsByChance]
DRAWS = [DropsAlways, DrawsFromNumPy, DrawsFromPython]


def build(kind, data):
    torch.manual_seed(0)
    return Network(kind(), data, CPU)


def trained(network, data, steps=3):
    """A client's model after some steps."""
    block = network.layout.to_vector(network.initial)[None]
    gradient = torch.zeros(1, network.layout.parameter_size)
    for step in range(steps):
        rows = slice(5 * step, 5 * step + 5)
        network.gradients(block, data.images[None, rows], data.labels[None, rows], [5], gradient)
        block[:, : gradient.shape[1]] -= 0.1 * gradient
    return block[0]


@pytest.mark.parametrize("kind", [*KEEPS, Averages, ReplacesMean])
def test_each_client_starts_from_the_sent_state(kind, data):
    network = build(kind, data)
    first = trained(network, data)
    assert not torch.equal(first, trained(network, data)) or kind is ReplacesMean
    network.restart()
    assert torch.equal(first, trained(network, data))


@pytest.mark.parametrize("kind", KEEPS + DRAWS)
def test_what_keeps_state_or_draws_is_not_stacked_and_named(kind, data, caplog):
    network = build(kind, data)
    assert network.stacked is None
    assert network.mixes is None
    line = "draws from the global generator of" if kind in DRAWS else "changes its '"
    assert f"clients train one by one, since the network {line}" in caplog.text


@pytest.mark.parametrize("kind", [*KEEPS, *DRAWS, Averages])
def test_a_measurement_repeats_and_disturbs_no_training(kind, data, monkeypatch):
    monkeypatch.setattr("fedalign.network.evaluation.WORTH_A_THREAD", 0)
    network = build(kind, data)
    vector = network.layout.to_vector(network.initial)
    measured = network.evaluate(vector, data, 7)
    whole = trained(network, data)
    network.restart()
    trained(network, data, 1)
    assert network.evaluate(vector, data, 7, threads=2) == measured
    assert torch.equal(network.features(vector[None], data.images[None]),
                       network.features(vector[None], data.images[None]))  # fmt: skip
    network.restart()
    assert torch.equal(trained(network, data), whole) == (kind not in DRAWS)


def test_a_buffer_that_is_replaced_is_a_part_of_the_model(data):
    network = build(ReplacesMean, data)
    (mean,) = (entry for entry in network.layout.buffers if entry.name == "mean")
    model = trained(network, data)
    assert mean.view(model).abs().min() > 0
    assert torch.equal(mean.view(trained(network, data, 0)), torch.zeros(3))


def test_state_goes_aside_and_back():
    module = Own()
    module.held = open  # cannot change, and need not be copied
    state = State(module)
    module.calls, module.late, module.seen["means"] = 5, 1, [2.0]
    module.count += 3
    assert state.changed() == "calls"
    with state.aside():
        assert (module.calls, module.seen, module.count.item()) == (0, {"means": []}, 0)
        assert not hasattr(module, "late")
    assert (module.calls, module.seen, module.count.item()) == (5, {"means": [2.0]}, 3)
    assert module.late == 1
    state.restore()
    assert state.changed() == ""


def test_an_activation_that_is_only_remembered_is_no_state(data):
    class Watched(Own):
        def change(self, x):
            self.last = x.detach()
            return x

    assert build(Watched, data).stacked is not None
