"""SGD and Adam on stacked flat parameters: the arithmetic of `torch.optim`, to the bit.

The first `torch.optim` object takes a fresh process more than a second, and it updates one model.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Optimizer(Protocol):
    """An update rule that holds a separate state for each of K models.

    Attributes:
        gradient: `(K, P)`; before each step it becomes `carry * gradient + new gradient`.
        carry: the factor on what the step before has left; 0 overwrites it.
    """

    gradient: Tensor
    carry: float

    def reset(self, row: int) -> None:
        """Clear the state of one model."""

    def step(self, weights: Tensor) -> None:
        """Update the first k models `(k, P)` in place."""


class SGD:
    """SGD with PyTorch's momentum: `v = momentum v + g; w = w - lr v`.

    Without weight decay the network adds each gradient straight to `momentum v`, which saves a pass
    over the weights.

    Args:
        like: weights `(K, P)`, for their shape and device.
        lr: the learning rate.
        momentum: 0 is none.
        weight_decay: factor of the L2 term.
        raw: the gradient must be available on its own, to be clipped or masked.
    """

    def __init__(
        self, like: Tensor, lr: float, momentum: float, weight_decay: float, raw: bool = False
    ):
        self.lr, self.momentum, self.weight_decay = lr, momentum, weight_decay
        self._raw = raw
        self.gradient, self.carry = torch.zeros_like(like), 0.0  # padding stays 0
        self._velocity: Tensor | None = None

    def reset(self, row: int) -> None:
        """Clear the momentum of one model."""
        moving = self.gradient if self._velocity is None else self._velocity
        moving[row].zero_()

    def step(self, weights: Tensor) -> None:
        """Update the first k models `(k, P)` in place."""
        count = len(weights)
        update = self.gradient[:count]
        if not self.weight_decay and not self._raw:
            self.carry = self.momentum
        else:
            if self.weight_decay:
                update.add_(weights, alpha=self.weight_decay)
            if self.momentum and self._velocity is None:
                self._velocity = self.gradient.clone()
            elif self._velocity is not None:
                update = self._velocity[:count].mul_(self.momentum).add_(update)
        weights.add_(update, alpha=-self.lr)


class Adam:
    """Adam (Kingma and Ba 2015) with weight decay added to the gradient.

    `like` are weights `(K, P)`, for their shape and device.
    """

    def __init__(self, like: Tensor, lr: float, weight_decay: float):
        self.lr, self.weight_decay, self.betas = lr, weight_decay, (0.9, 0.999)
        self.gradient, self.carry = torch.zeros_like(like), 0.0  # padding stays 0
        self._mean, self._square = torch.zeros_like(like), torch.zeros_like(like)
        self._steps = [0] * len(like)

    def reset(self, row: int) -> None:
        """Clear the moments of one model."""
        self._mean[row].zero_()
        self._square[row].zero_()
        self._steps[row] = 0

    def step(self, weights: Tensor) -> None:
        """Update the first k models `(k, P)` in place."""
        (beta1, beta2), count = self.betas, len(weights)
        self._steps[:count] = [step + 1 for step in self._steps[:count]]
        gradient, mean, square = (t[:count] for t in (self.gradient, self._mean, self._square))
        if self.weight_decay:
            gradient.add_(weights, alpha=self.weight_decay)
        mean.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        for row, step in enumerate(self._steps[:count]):
            scale = square[row].sqrt().div_((1 - beta2**step) ** 0.5).add_(1e-8)
            weights[row].addcdiv_(mean[row], scale, value=-self.lr / (1 - beta1**step))
