import numpy as np
import pytest
import torch
from torch.nn import functional

from clients.local import Local
from fedalign.algorithm import Stack
from fedalign.masks.phases import phases, update_mask
from fedalign.masks.plan import MaskPlan
from fedalign.rng import rng

OPTIMIZERS = [
    {"optimizer": "sgd", "momentum": 0.0, "weight_decay": 0.0},
    {"optimizer": "sgd", "momentum": 0.9, "weight_decay": 5e-2},
    {"optimizer": "adam", "weight_decay": 5e-2, "lr": 0.01},
]


def train(network, data, plan, **options):
    start = network.layout.to_vector(network.initial)
    block = start.clone()[None]
    rows = np.arange(0, 60, 2)
    stack = Stack(network, data, start, block, [rows], [rng(0, "batches", 1, 0)], [plan])
    return start, block[0], float(Local(batch_size=8, **options).train(stack).losses[0])


@pytest.mark.parametrize("options", OPTIMIZERS)
def test_fixed_weights_keep_their_bits(network, data, options):
    plan = MaskPlan(0, 0, 0.4)
    before, after, _ = train(network, data, plan, epochs=3, **options)
    trains = update_mask(plan, network.layout)
    weights = slice(0, network.layout.parameter_size)
    assert torch.equal(before[weights][~trains], after[weights][~trains])
    assert (before[weights][trains] != after[weights][trains]).float().mean() > 0.9


@pytest.mark.parametrize("options", OPTIMIZERS)
def test_all_fixed_changes_nothing_but_batchnorm(network, data, options):
    before, after, _ = train(network, data, MaskPlan(0, 0, 1.0), **options)
    count = network.layout.parameter_size
    assert torch.equal(before[:count], after[:count])
    assert not torch.equal(before[count:], after[count:])


@pytest.mark.parametrize("options", OPTIMIZERS)
def test_complement_half_holds_each_half_in_turn(network, data, options, monkeypatch):
    plan = MaskPlan(0, 0, 0.5, "complement_half")
    seen = []
    gradients = network.gradients

    def spy(block, *rest):
        seen.append(block[0].clone())
        return gradients(block, *rest)

    monkeypatch.setattr(network, "gradients", spy)
    _, end, _ = train(network, data, plan, epochs=2, **options)  # 8 steps: 4 and 4
    count, first = network.layout.parameter_size, phases(plan, network.layout, 8)[0].trains
    start, middle, end = (vector[:count] for vector in (seen[0], seen[4], end))
    assert torch.equal(start[~first], middle[~first])
    assert torch.equal(middle[first], end[first])
    assert not torch.equal(start[first], middle[first])
    assert not torch.equal(middle[~first], end[~first])


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_an_empty_half_gives_its_steps_to_the_other(network, data, ratio):
    _, plain, _ = train(network, data, MaskPlan(), epochs=2)
    _, halves, _ = train(network, data, MaskPlan(0, 0, ratio, "complement_half"), epochs=2)
    assert torch.equal(plain, halves)


def test_one_step_of_sgd_by_hand(network, data):
    options = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0}
    before, after, loss = train(network, data, MaskPlan(), **options, epochs=1)
    rows = torch.from_numpy(rng(0, "batches", 1, 0).permutation(np.arange(0, 60, 2)))
    assert loss == pytest.approx(_replay(network, data, before, rows.split(8), after), rel=1e-6)


def _replay(network, data, start, batches, expected):
    """The same epoch with autograd on named tensors; checks the result, returns the mean loss."""
    vector, total = start.clone(), 0.0
    for batch in batches:
        network.layout.bind(network.module, vector)
        network.module.train()
        for parameter in network.module.parameters():
            parameter.grad = None
        images = (data.images[batch].float() - 0.3 * 255) / (0.2 * 255)
        loss = functional.cross_entropy(network.module(images), data.labels[batch])
        loss.backward()
        with torch.no_grad():
            for parameter in network.module.parameters():
                parameter.sub_(0.1 * parameter.grad)
        total += loss.item() * len(batch)
    torch.testing.assert_close(vector, expected, rtol=1e-5, atol=1e-6)
    return total / sum(map(len, batches))


def test_masked_training_learns(network, data):
    before, after, _ = train(network, data, MaskPlan(0, 0, 0.4), epochs=30)
    assert network.evaluate(after, data, 60)[0] < 0.5 * network.evaluate(before, data, 60)[0]
