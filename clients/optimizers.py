"""SGD, Adam and AdamW on stacked flat parameters: the arithmetic of `torch.optim`, to the bit.

The first `torch.optim` object takes a fresh process more than a second, and it updates one model.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

Decay = float | np.ndarray
"""A weight decay, or that of each client, `(K, 1)`."""


class Optimizer(Protocol):
    """An update rule that holds a separate state for each of K models.

    What it does depends on a step's rate and root alone, which are known before the first step.

    Attributes:
        gradient: `(K, P)`; before each step it becomes `carry * gradient + new gradient`.
        carry: the factor on what the step before has left; 0 overwrites it.
        state: the names of its attributes that are tensors with a row a client.
    """

    gradient: Tensor
    carry: float
    state: tuple[str, ...]

    def rates(self, ages: np.ndarray, lrs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return each step's rate and root, `(T, K, 1)` float64; see `clients.steps.Step`.

        `ages` `(T, K)` are the numbers of steps since the state was last cleared, from 1; `lrs`
        `(T, K)` are the learning rates.
        """
        ...

    def reset(self, rows: Tensor | None) -> None:
        """Clear the state of some models; None: of all."""

    def step(self, weights: Tensor, rate: Tensor | float, root: Tensor) -> None:
        """Update the first k models `(k, P)` in place."""


class SGD:
    """SGD with PyTorch's momentum: `v = momentum v + g; w = w - lr v`.

    Without weight decay the network adds each gradient straight to `momentum v`, which saves a pass
    over the weights.

    Args:
        like: weights `(K, P)`, for their shape and device.
        momentum: 0 is none.
        weight_decay: factor of the L2 term; or that of each client, `(K, 1)`.
        raw: the gradient must be available on its own, to be clipped or masked.
    """

    def __init__(self, like: Tensor, momentum: float, weight_decay: Decay, raw: bool = False):
        self.momentum, self.weight_decay = momentum, _on_device(weight_decay, like)
        self.gradient, self.carry = torch.zeros_like(like), momentum
        self.state: tuple[str, ...] = ("gradient",)
        self.velocity: Tensor | None = None  # unless it is where the gradient is
        if momentum and (_decays(self.weight_decay) or raw):
            self.velocity, self.carry = torch.zeros_like(like), 0.0
            self.state = ("gradient", "velocity")
        self.state += _own(self.weight_decay)

    def rates(self, ages: np.ndarray, lrs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return minus the learning rates, and no root."""
        return -lrs[..., None], np.empty((*ages.shape, 0))

    def reset(self, rows: Tensor | None) -> None:
        """Clear the momentum of some models; None: of all."""
        _clear(self.gradient if self.velocity is None else self.velocity, rows)

    def step(self, weights: Tensor, rate: Tensor | float, root: Tensor) -> None:  # noqa: ARG002
        """Update the first k models `(k, P)` in place."""
        update = self.gradient[: len(weights)]
        _add_decay(update, weights, self.weight_decay)
        if self.velocity is not None:
            update = self.velocity[: len(weights)].mul_(self.momentum).add_(update)
        if isinstance(rate, float):
            weights.add_(update, alpha=rate)
        else:
            weights.addcmul_(update, rate)


class Adam:
    """Adam (Kingma and Ba 2015) with weight decay added to the gradient.

    `like` are weights `(K, P)`, for their shape and device; `weight_decay` as that of `SGD`.
    """

    def __init__(self, like: Tensor, weight_decay: Decay):
        self.weight_decay, self.betas = _on_device(weight_decay, like), (0.9, 0.999)
        self.gradient, self.carry = torch.zeros_like(like), 0.0
        self.mean, self.square = torch.zeros_like(like), torch.zeros_like(like)
        self.state = ("gradient", "mean", "square", *_own(self.weight_decay))

    def rates(self, ages: np.ndarray, lrs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the step sizes, and the roots of the corrections of the second moment."""
        (beta1, beta2), steps = self.betas, ages[..., None]
        return -lrs[..., None] / (1 - beta1**steps), (1 - beta2**steps) ** 0.5

    def reset(self, rows: Tensor | None) -> None:
        """Clear the moments of some models; None: of all."""
        _clear(self.mean, rows)
        _clear(self.square, rows)

    def step(self, weights: Tensor, rate: Tensor | float, root: Tensor) -> None:
        """Update the first k models `(k, P)` in place."""
        (beta1, beta2), count = self.betas, len(weights)
        gradient, mean, square = (t[:count] for t in (self.gradient, self.mean, self.square))
        _add_decay(gradient, weights, self.weight_decay)
        mean.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        weights.addcdiv_(mean * rate, square.sqrt().div_(root).add_(1e-8))


class AdamW(Adam):
    """Adam that shrinks the weights by lr times their decay (Loshchilov and Hutter 2019)."""

    def __init__(self, like: Tensor, weight_decay: Decay):
        super().__init__(like, 0.0)
        self._decay = weight_decay

    def rates(self, ages: np.ndarray, lrs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return Adam's rates and roots, and beside the roots what is left of the weights."""
        rates, roots = super().rates(ages, lrs)
        return rates, np.concatenate([roots, 1 - self._decay * lrs[..., None]], axis=-1)

    def step(self, weights: Tensor, rate: Tensor | float, root: Tensor) -> None:
        """Update the first k models `(k, P)` in place."""
        weights.mul_(root[:, 1:])
        super().step(weights, rate, root[:, :1])


def _on_device(decay: Decay, like: Tensor) -> float | Tensor:
    return torch.from_numpy(decay).to(like) if isinstance(decay, np.ndarray) else decay


def _decays(decay: float | Tensor) -> bool:
    return isinstance(decay, Tensor) or bool(decay)


def _own(decay: float | Tensor) -> tuple[str, ...]:
    """Return what holds the clients' decays among the tensors of an optimiser; it may be none."""
    return ("weight_decay",) if isinstance(decay, Tensor) else ()


def _add_decay(update: Tensor, weights: Tensor, decay: float | Tensor) -> None:
    """Add the decay of weights `(k, P)` to their gradients."""
    if isinstance(decay, Tensor):
        update.addcmul_(weights, decay[: len(weights)])
    elif decay:
        update.add_(weights, alpha=decay)


def _clear(state: Tensor, rows: Tensor | None) -> None:
    if rows is None:
        state.zero_()
    else:
        state.index_fill_(0, rows, 0)
