"""SGD and Adam on stacked flat parameters: the arithmetic of `torch.optim`, to the bit.

A `torch.optim` object costs more than a second in each fresh process, and works on one model.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Step = Callable[[Tensor, Tensor], None]  # (weights, gradient), both (K, P); changes both in place


def sgd(lr: float, momentum: float, weight_decay: float) -> Step:
    """Return a fresh SGD step with PyTorch's momentum: `v = momentum v + g; w = w - lr v`."""
    velocity: Tensor | None = None

    def step(weights: Tensor, gradient: Tensor) -> None:
        nonlocal velocity
        if weight_decay:
            gradient.add_(weights, alpha=weight_decay)
        if momentum and velocity is None:
            velocity = gradient.clone()
        elif velocity is not None:
            velocity.mul_(momentum).add_(gradient)
        weights.add_(gradient if velocity is None else velocity, alpha=-lr)

    return step


def adam(lr: float, weight_decay: float, beta1: float = 0.9, beta2: float = 0.999) -> Step:
    """Return a fresh step of Adam (Kingma and Ba 2015), weight decay added to the gradient."""
    mean = square = torch.tensor(0.0)
    steps = 0

    def step(weights: Tensor, gradient: Tensor) -> None:
        nonlocal mean, square, steps
        if steps == 0:
            mean, square = torch.zeros_like(weights), torch.zeros_like(weights)
        steps += 1
        if weight_decay:
            gradient.add_(weights, alpha=weight_decay)
        mean.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        scale = square.sqrt().div_((1 - beta2**steps) ** 0.5).add_(1e-8)
        weights.addcdiv_(mean, scale, value=-lr / (1 - beta1**steps))

    return step
