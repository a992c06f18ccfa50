"""BatchNorm's running statistics."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def batch_sizes(count: int, batch_size: int, pairs: bool) -> list[int]:
    """Return the sizes of the batches of so many examples; the last may be smaller.

    With `pairs`, which BatchNorm needs, a last batch of one joins the batch before. It does not
    take an example from there: of two values BatchNorm leaves only the order, and their gradients
    are rounding.

    >>> [batch_sizes(9, 4, pairs=False), batch_sizes(9, 4, pairs=True)]
    [[4, 4, 1], [4, 5]]
    """
    batch_size = max(batch_size, 2) if pairs else batch_size
    full, rest = divmod(count, batch_size)
    if pairs and rest == 1 and full:
        return [batch_size] * (full - 1) + [batch_size + 1]
    return [batch_size] * full + [rest] * (rest > 0)


@torch.no_grad()
def reestimate(module: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set each BatchNorm layer's running statistics to their mean over batches of inputs.

    Everything else runs as in evaluation. The layers' counts of batches stay as they are.
    """
    norms: list[Any] = [layer for layer in module.modules() if isinstance(layer, NORMS)]
    norms = [norm for norm in norms if norm.running_mean is not None]
    momenta = [norm.momentum for norm in norms]
    counts = [norm.num_batches_tracked for norm in norms]
    module.eval()  # dropout, say, would draw from the global generator
    for norm in norms:
        norm.num_batches_tracked = None
        norm.running_mean.zero_()
        norm.running_var.fill_(1)
        norm.train()
    for number, inputs in enumerate(batches, 1):
        for norm in norms:
            norm.momentum = 1.0 / number  # a plain mean; None would read the count from the device
        module(inputs)
    for norm, momentum, count in zip(norms, momenta, counts, strict=True):
        norm.momentum, norm.num_batches_tracked = momentum, count
