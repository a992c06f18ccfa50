"""Random models: whichever way a network runs, it computes what its plain module does."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from fedalign.data import Dataset
from fedalign.network.device import torch_threads
from fedalign.network.network import Network
from fedalign.network.permutations import shuffled
from fedalign.rng import rng

CPU, CLASSES = torch.device("cpu"), 3


class Twice(nn.Module):
    """Uses its input twice, and one layer twice."""

    def __init__(self, width):
        super().__init__()
        self.inner = nn.Linear(width, width)

    def forward(self, x):
        return x + self.inner(functional.relu(self.inner(x)))


class Mixing(nn.Module):
    """Adds some of the whole batch."""

    def forward(self, x):
        return x + 0.1 * x.mean(0)


class Constant(nn.Module):
    """Has a buffer that its forward pass uses."""

    def __init__(self, width):
        super().__init__()
        self.register_buffer("scale", torch.linspace(0.5, 2, width))

    def forward(self, x):
        return x * self.scale


def layers(width):
    return st.sampled_from([
        lambda: nn.Linear(width, width), lambda: nn.Linear(width, width, bias=False),
        nn.ReLU, nn.Tanh, lambda: nn.Dropout(0.3), lambda: nn.LayerNorm(width),
        lambda: nn.LayerNorm(width, elementwise_affine=False), lambda: nn.RMSNorm(width),
        lambda: nn.BatchNorm1d(width), lambda: nn.BatchNorm1d(width, affine=False),
        lambda: nn.BatchNorm1d(width, track_running_stats=False), lambda: Twice(width), Mixing,
        lambda: nn.GroupNorm(2, width), lambda: nn.GroupNorm(2, width, affine=False),
        nn.PReLU, lambda: nn.PReLU(width), lambda: Constant(width),
    ])  # fmt: skip


@st.composite
def models(draw):
    """A shape of images, and a model whose first layer works on their last axis or on all."""
    shape = draw(st.sampled_from([(1, 4, 6), (2, 3, 4), (1, 1, 8)]))
    size, width = shape[0] * shape[1] * shape[2], 6
    start = [lambda: nn.Linear(shape[2], 2), nn.Flatten, lambda: nn.Linear(2 * size // shape[2], 6)]
    if draw(st.booleans()):
        start = [nn.Flatten, lambda: nn.Linear(size, width)]
    middle = draw(st.lists(layers(width), max_size=4))
    return shape, [*start, *middle, lambda: nn.Linear(width, CLASSES)]


def network_of(shape, parts):
    torch.manual_seed(0)
    means, stds = (0.4,) * shape[0], (0.3,) * shape[0]
    images = torch.randint(0, 256, (23, *shape), dtype=torch.uint8)
    data = Dataset(images, torch.arange(23) % CLASSES, CLASSES, means, stds, "made up")
    return Network(nn.Sequential(*(part() for part in parts)), data, CPU), data


def varied(network, count):
    """Models that differ in every tensor."""
    draw = torch.Generator().manual_seed(1)
    block = network.layout.to_vector(network.initial).repeat(count, 1)
    for entry in network.layout.entries:
        own = entry.view(block)
        own += 0.2 * torch.rand(own.shape, generator=draw)
    return block


@settings(max_examples=5, suppress_health_check=[HealthCheck.too_slow])
@given(models(), st.lists(st.integers(2, 7), min_size=1, max_size=4))
def test_steps_mixes_and_tables_are_the_plain_ones(model, sizes):
    check(model, sizes)


@pytest.mark.slow
@settings(max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(models(), st.lists(st.integers(2, 17), min_size=1, max_size=9))
def test_a_thousand_random_models(model, sizes):
    check(model, sizes)


def check(model, sizes):
    with torch_threads(1):
        network, data = network_of(*model)
        steps_are_plain(network, data, sizes)
        mixes_are_plain(network, data)
        tables_are_right(network, data)


def steps_are_plain(network, data, sizes):
    sizes, block = sorted(sizes, reverse=True), varied(network, len(sizes))
    rows = torch.arange(len(sizes) * sizes[0]).view(len(sizes), -1) % len(data)
    labels = data.labels[rows]
    for row, size in zip(labels, sizes, strict=True):
        row[size:] = -1
    keys = torch.arange(2 * len(sizes), dtype=torch.int32).view(-1, 2)
    network.draws.keys, together = keys, block.clone()
    found = torch.full_like(block, torch.nan)
    if network.stacked is None:
        return
    losses = network.gradients(together, data.images[rows], labels, sizes, found)
    for k, size in enumerate(sizes):
        network.draws.keys, own = keys[k : k + 1], block[k : k + 1].clone()
        out = torch.full_like(own, torch.nan)
        images, theirs = data.images[rows[k : k + 1, :size]], labels[k : k + 1, :size]
        loss = network.gradients(own, images, theirs, [size], out)
        torch.testing.assert_close(losses[k], loss[0], rtol=1e-3, atol=1e-4)
        for entry in network.layout.parameters:
            pair = entry.view(found)[k], entry.view(out)[0]
            assert (pair[0] - pair[1]).norm() <= 0.02 * pair[1].norm() + 1e-3
        for entry in network.layout.buffers:
            torch.testing.assert_close(entry.view(together)[k], entry.view(own)[0])


def mixes_are_plain(network, data):
    if network.mixes is None:
        return
    block, shares = varied(network, 3), torch.tensor([[0.2, 0.3, 0.5], [1, 0, 0], [0.5, -0.5, 1]])
    for given_shares in (shares, shares[:1], None):
        mixed = block if given_shares is None else given_shares @ block
        found = network.evaluate_mixes(block, given_shares, data, 10)  # the last batch has 3
        for scores, vector in zip(found, mixed, strict=True):
            torch.testing.assert_close(
                scores[0], network.scores(vector, data, 10)[0, 0], rtol=1e-3, atol=1e-4
            )


def tables_are_right(network, data):
    vector = varied(network, 1)[0]
    other = shuffled(network.layout, network.symmetry, rng(0, "x"), vector)
    before, after = (network.evaluate(v, data, 10)[0] for v in (vector, other))
    assert after == pytest.approx(before, rel=1e-3, abs=1e-4)
