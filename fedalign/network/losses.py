"""Losses of single examples: cross-entropy, and what an algorithm may put in its place."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Loss = Callable[[Tensor, Tensor, Tensor, slice], Tensor]
"""Returns the loss of each example, `(k, B)`, and 0 for examples that do not count.

Its arguments: logits `(k, B, classes)`; labels `(k, B)`, -1 for examples that do not count;
features `(k, B, D)`, as `Network.features` returns them; and which rows of the stack these k
clients are. The mean over a client's own examples is what it minimises.
"""


def losses_of(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Return each example's cross-entropy, in the shape of `labels`; 0 where the label is -1.

    With `smoothing` a label has this share less, which all classes get in equal parts (Szegedy et
    al. 2016, section 7): all whose logit is not minus infinity, which leaves a class out.
    """
    flat, own = logits.reshape(labels.numel(), -1), labels.flatten()
    losses = functional.cross_entropy(flat, own, reduction="none", ignore_index=-1)
    if smoothing:
        counts = flat.detach() > -torch.inf
        logs = functional.log_softmax(flat, dim=1).where(counts, 0).sum(1)
        spread = torch.where(own >= 0, -logs / counts.sum(1), 0)
        losses = (1 - smoothing) * losses + smoothing * spread
    return losses.view(labels.shape)


def cross_entropy(smoothing: float) -> Loss:
    """Return the loss that is `losses_of`."""

    def loss(logits: Tensor, labels: Tensor, _: Tensor, __: slice) -> Tensor:
        return losses_of(logits, labels, smoothing)

    return loss
