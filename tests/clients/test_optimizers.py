import numpy as np
import pytest
import torch

from clients.optimizers import SGD, Adam, AdamW

RULES = {
    "sgd": (lambda w: SGD(w, 0, 0), lambda p: torch.optim.SGD(p, lr=0.1)),
    "momentum": (
        lambda w: SGD(w, 0.9, 5e-4),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=5e-4),
    ),
    "momentum alone": (
        lambda w: SGD(w, 0.9, 0),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    ),
    "adam": (lambda w: Adam(w, 0), lambda p: torch.optim.Adam(p, lr=0.1)),
    "adam with decay": (
        lambda w: Adam(w, 0.1),
        lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.1),
    ),
    "adamw": (
        lambda w: AdamW(w, 0.3),
        lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.3),
    ),
}


def take(rule, gradient):
    """Do to a rule's gradient what a network does."""
    place = rule.gradient[: len(gradient)]
    place.mul_(rule.carry) if rule.carry else place.zero_()
    place.add_(gradient)


def step(rule, weights, *ages, lr=0.1):
    """Make a step of models whose optimisers are so many steps old."""
    lrs = np.full((1, len(ages)), lr)
    rate, root = (torch.from_numpy(of[0]).float() for of in rule.rates(np.array([ages]), lrs))
    rule.step(weights, rate if root.numel() else float(rate[0]), root)


@pytest.mark.parametrize("rule", RULES)
def test_equals_torch_to_the_bit(rule):
    ours, theirs = RULES[rule]
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(3, 1001, generator=generator)
    parameter = weights.clone().requires_grad_()
    rule, reference = ours(weights), theirs([parameter])
    for age in range(1, 6):
        gradient = torch.randn(3, 1001, generator=generator)
        parameter.grad = gradient.clone()
        take(rule, gradient)
        step(rule, weights, age, age, age)
        reference.step()
        assert torch.equal(weights, parameter)


def test_momentum_by_hand():
    weights = torch.tensor([[1.0]])
    rule = SGD(weights, momentum=0.5, weight_decay=0.0)
    take(rule, torch.tensor([[1.0]]))
    step(rule, weights, 1, lr=0.5)  # v = 1, w = 1 - 0.5
    take(rule, torch.tensor([[1.0]]))
    step(rule, weights, 1, lr=0.5)  # v = 1.5, w = 0.5 - 0.75
    assert weights.item() == -0.25


@pytest.mark.parametrize("rule", RULES)
def test_models_are_updated_apart(rule):
    """The first two of three models, the second of which is reset half-way."""
    ours, _ = RULES[rule]
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(3, 11, generator=generator)
    gradients = torch.randn(4, 3, 11, generator=generator)
    together, alone = start.clone(), start.clone()
    block, rows = ours(together), [ours(alone[k : k + 1]) for k in range(3)]
    ages = np.array([1, 1, 1])
    for number, gradient in enumerate(gradients):
        if number == 2:
            block.reset(torch.tensor([1]))
            rows[1] = ours(alone[1:2])
            ages[1] = 1
        count = 3 if number < 3 else 2
        take(block, gradient[:count])
        step(block, together[:count], *ages[:count])
        for k in range(count):
            take(rows[k], gradient[k : k + 1])
            step(rows[k], alone[k : k + 1], ages[k])
        ages += 1
    assert torch.equal(together, alone)


@pytest.mark.parametrize("rule", RULES)
def test_a_rate_of_zero_holds_a_model(rule):
    """With a root of 1: see `Step`."""
    ours, _ = RULES[rule]
    weights = torch.randn(2, 11, generator=torch.Generator().manual_seed(0))
    before, rule = weights.clone(), ours(weights)
    take(rule, torch.ones(2, 11))
    ages = np.ones((1, 2))
    rate, root = (torch.from_numpy(of[0]).float() for of in rule.rates(ages, ages / 10))
    rate[1], root[1] = 0, 1
    rule.step(weights, rate, root)
    assert torch.equal(weights[1], before[1])
    assert (weights[0] != before[0]).all()


def test_adamw_follows_a_rate_that_changes():
    """Also in its decay, as `torch.optim.AdamW` does under a scheduler."""
    weights = torch.randn(1, 101, generator=torch.Generator().manual_seed(0))
    parameter = weights.clone().requires_grad_()
    rule, reference = AdamW(weights, 0.3), torch.optim.AdamW([parameter], lr=0.1, weight_decay=0.3)
    for age, factor in enumerate([0.25, 0.5, 1, 0.75, 0.5], 1):
        reference.param_groups[0]["lr"] = 0.1 * factor
        parameter.grad = weights.sin()
        take(rule, weights.sin())
        step(rule, weights, age, lr=0.1 * factor)
        reference.step()
        assert torch.equal(weights, parameter)
