import pytest
import torch

from clients.optimizers import adam, sgd

RULES = {
    "sgd": (lambda: sgd(0.1, 0, 0), lambda p: torch.optim.SGD(p, lr=0.1)),
    "momentum": (
        lambda: sgd(0.1, 0.9, 5e-4),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=5e-4),
    ),
    "adam": (lambda: adam(0.01, 0), lambda p: torch.optim.Adam(p, lr=0.01)),
    "adam with decay": (
        lambda: adam(0.01, 0.1),
        lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=0.1),
    ),
}


@pytest.mark.parametrize("rule", RULES)
def test_equals_torch_to_the_bit(rule):
    ours, theirs = RULES[rule]
    generator = torch.Generator().manual_seed(0)
    weights = torch.randn(3, 1001, generator=generator)
    parameter = weights.clone().requires_grad_()
    step, reference = ours(), theirs([parameter])
    for _ in range(5):
        gradient = torch.randn(3, 1001, generator=generator)
        parameter.grad = gradient.clone()
        step(weights, gradient)
        reference.step()
        assert torch.equal(weights, parameter)


def test_momentum_by_hand():
    weights = torch.tensor([[1.0]])
    step = sgd(lr=0.5, momentum=0.5, weight_decay=0.0)
    step(weights, torch.tensor([[1.0]]))  # v = 1, w = 1 - 0.5
    step(weights, torch.tensor([[1.0]]))  # v = 1.5, w = 0.5 - 0.75
    assert weights.item() == -0.25
