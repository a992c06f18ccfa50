"""No batch has a single example where a layer normalises over the batch, however clients run."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from clients.fedsam import FedSAM
from clients.local import Local
from clients.moon import MOON
from clients.scaffold import Scaffold
from clients.steps import Batches
from fedalign.algorithm import Stack
from fedalign.masks.plan import MaskPlan
from fedalign.network.batch_norm import batch_sizes
from fedalign.network.network import Network
from fedalign.rng import rng

CPU = torch.device("cpu")


class OwnNorm(nn.Module):
    """Normalises over the batch without PyTorch's layer."""

    def forward(self, x):
        return (x - x.mean(0)) / (x.std(0) + 0.1)


def chain(norm):
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), norm, nn.ReLU(), nn.Linear(8, 3))


NEED = {
    "bn": lambda: chain(nn.BatchNorm1d(8)),
    "bn without weights": lambda: chain(nn.BatchNorm1d(8, affine=False)),
    "bn without statistics": lambda: chain(nn.BatchNorm1d(8, track_running_stats=False)),
    "bn of one pixel": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3),
        nn.AdaptiveAvgPool2d(1),
        nn.BatchNorm2d(4),
        nn.Flatten(),
        nn.Linear(4, 3),
    ),
    "own": lambda: chain(OwnNorm()),
}
DO_NOT = {
    "bn of pixels": lambda: nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(36, 3)),
    "layer norm": lambda: chain(nn.LayerNorm(8)),
    "none": lambda: chain(nn.Identity()),
}


def build(module, data):
    torch.manual_seed(0)
    return Network(module(), data, CPU)


def train(network, data, counts, client=Local, plan=None, first=0, **options):
    """Models of clients with so many examples, and their metrics, after a round."""
    start = network.layout.to_vector(network.initial)
    rows = [np.arange(a, b) for a, b in pairwise(first + np.cumsum([0, *counts]))]
    streams = [rng(0, "batches", int(row[0])) for row in rows]
    plans = [plan or MaskPlan()] * len(rows)
    stack = Stack(network, data, start, start.repeat(len(rows), 1), rows, streams, plans)
    result = client(**options).train(stack)
    return stack.block, result


@pytest.mark.parametrize("name", NEED)
def test_a_last_example_alone_joins_the_batch_before_it(name, data):
    network = build(NEED[name], data)
    assert network.traits.needs_two
    model, result = train(network, data, [17], batch_size=16)
    assert model.isfinite().all()
    assert result.metrics["normalized_steps"].shape == (1,)
    both, _ = train(network, data, [17, 9], batch_size=8)
    alone = [
        train(network, data, [n], batch_size=8, first=at)[0][0] for n, at in ((17, 0), (9, 17))
    ]
    for found, expected in zip(both, alone, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", DO_NOT)
def test_other_networks_keep_their_batch_of_one(name, data):
    network = build(DO_NOT[name], data)
    assert network.traits.needs_two == ""
    train(network, data, [17, 1], batch_size=1)


@pytest.mark.parametrize("client", [Local, MOON, Scaffold, FedSAM])
@pytest.mark.parametrize("options", [{}, {"fixed_ratio": 0.4, "schedule": "complement_half"}])
def test_all_algorithms_and_masks(client, options, data):
    network = build(NEED["bn"], data)
    model, _ = train(network, data, [9, 5, 4], client, MaskPlan(**options), batch_size=4, epochs=2)
    assert model.isfinite().all()


@pytest.mark.parametrize(
    ("counts", "batch_size", "told"),
    [([5, 1], 4, "a client has a single example"), ([5], 1, "client.batch_size is 1")],
)
def test_who_can_only_have_one_is_told_layer_and_cure(counts, batch_size, told, data):
    network = build(NEED["bn"], data)
    with pytest.raises(ValueError, match=r"partition\.min_size at least 2") as error:
        train(network, data, counts, batch_size=batch_size)
    assert str(error.value).startswith(f"{told}, but layer '2' (BatchNorm1d(8")


@given(st.integers(1, 40), st.integers(1, 9), st.booleans())
def test_every_example_is_in_one_batch(count, batch_size, pairs):
    sizes = batch_sizes(count, batch_size, pairs)
    assert sum(sizes) == count
    assert max(sizes) <= max(batch_size, 2) + 1 if pairs else batch_size
    if pairs and count > 1:
        assert min(sizes) > 1


@given(st.lists(st.integers(2, 20), min_size=1, max_size=4), st.integers(2, 6), st.integers(1, 3))
def test_batches_of_all_clients_hold_each_example_once_an_epoch(counts, batch_size, epochs):
    counts, starts = sorted(counts, reverse=True), np.cumsum([0, *counts])
    rows = [np.arange(count) + start for count, start in zip(counts, starts, strict=False)]
    streams = [rng(0, "x", k) for k in range(len(rows))]
    batches = Batches.draw(rows, streams, [epochs] * len(rows), batch_size, pairs=True)
    assert 1 not in batches.sizes
    for k, own in enumerate(rows):
        seen = batches.index[:, k][batches.index[:, k] >= 0]
        assert sorted(seen) == sorted([*own] * epochs)
        filled = batches.index[:, k] >= 0
        assert (filled == (np.arange(batch_size + 1) < batches.sizes[:, k, None])).all()
        assert np.count_nonzero(batches.sizes[:, k]) == batches.steps[k]


def test_statistics_are_never_of_one_example(data):
    network = build(NEED["bn"], data)
    vector = network.layout.to_vector(network.initial)
    for batch_size in (1, 2, 7, 20):
        assert network.recalibrate(vector, data.images[:21], batch_size).isfinite().all()
