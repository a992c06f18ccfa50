"""Losses of single examples: cross-entropy, and what an algorithm may put in its place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

Loss = Callable[[Tensor, Tensor, Tensor, slice], Tensor]
"""Returns the loss of each example, `(k, B)`, and 0 for examples that do not count.

Its arguments: logits `(k, B, classes)`; labels `(k, B)`, -1 for examples that do not count;
features `(k, B, D)`, as `Network.features` returns them; and which rows of the stack these k
clients are. The mean over a client's own examples is what it minimises.
"""


@dataclass(frozen=True)
class Tasks:
    """Which classes compete for an example: those of its own label's task.

    A head with a row for each class of each task is so a head for each task. Without label sets
    nothing is done, and nothing costs anything.

    Args:
        of: `(C,)`, the task of each class; None: all classes are of one task.
    """

    of: Tensor | None

    def own(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return logits `(…, classes)` of examples with these labels `(…)`, -inf for others' tasks.

        Examples that do not count, whose label is -1, are taken for ones of the first task.
        """
        if self.of is None:
            return logits
        beyond = logits.shape[-1] - len(self.of)  # logits that no label has
        tasks = functional.pad(self.of, (0, beyond), value=-1)
        return logits.masked_fill(self.of[labels.clamp(min=0)][..., None] != tasks, -torch.inf)

    def loss(self, loss: Loss | None) -> Loss | None:
        """Return a loss, None being cross-entropy, that sees of each example its own logits."""
        if self.of is None:
            return loss

        def of_own(logits: Tensor, labels: Tensor, features: Tensor, rows: slice) -> Tensor:
            logits = self.own(logits, labels)
            return losses_of(logits, labels) if not loss else loss(logits, labels, features, rows)

        return of_own


@lru_cache(maxsize=16)
def tasks_of(label_sets: tuple[int, ...], device: torch.device) -> Tasks:
    """Return the tasks of `Spec.label_sets`; they stay on the device, as captured work needs it."""
    return Tasks(torch.tensor(label_sets, device=device) if label_sets else None)


def losses_of(logits: Tensor, labels: Tensor, smoothing: float | Tensor = 0.0) -> Tensor:
    """Return each example's cross-entropy, in the shape of `labels`; 0 where the label is -1.

    With `smoothing` a label has this share less, which all classes get in equal parts (Szegedy et
    al. 2016, section 7): all whose logit is not minus infinity, which leaves a class out. It may be
    a number of each client, `(k, 1)`, where labels are `(k, B)`.
    """
    flat, own = logits.reshape(labels.numel(), -1), labels.flatten()
    losses = functional.cross_entropy(flat, own, reduction="none", ignore_index=-1)
    if isinstance(smoothing, Tensor):
        smoothing = smoothing.expand(labels.shape).flatten()
    if isinstance(smoothing, Tensor) or smoothing:
        counts = flat.detach() > -torch.inf
        logs = functional.log_softmax(flat, dim=1).where(counts, 0).sum(1)
        spread = torch.where(own >= 0, -logs / counts.sum(1), 0)
        losses = (1 - smoothing) * losses + smoothing * spread
    return losses.view(labels.shape)


def cross_entropy(smoothing: float | Tensor) -> Loss:
    """Return the loss that is `losses_of`; smoothing may be that of each client, `(K, 1)`."""

    def loss(logits: Tensor, labels: Tensor, _: Tensor, clients: slice) -> Tensor:
        own = smoothing[clients] if isinstance(smoothing, Tensor) else smoothing
        return losses_of(logits, labels, own)

    return loss
