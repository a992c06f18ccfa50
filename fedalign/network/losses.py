"""Losses of single examples: cross-entropy, and what an algorithm may put in its place."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

Loss = Callable[[Tensor, Tensor, Tensor, slice], Tensor]
"""Returns the loss of each example, `(k, B)`, and 0 for examples that do not count.

Its arguments: logits `(k, B, classes)`; labels `(k, B)`, -1 for examples that do not count;
features `(k, B, D)`, as `Network.features` returns them; and which rows of the stack these k
clients are. The mean over a client's own examples is what it minimises.
"""


def losses_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Return each example's cross-entropy, in the shape of `labels`; 0 where the label is -1."""
    flat = logits.reshape(labels.numel(), -1)
    losses = functional.cross_entropy(flat, labels.flatten(), reduction="none", ignore_index=-1)
    return losses.view(labels.shape)
