"""BatchNorm's running statistics."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)


@torch.no_grad()
def reestimate(module: nn.Module, batches: Iterable[Tensor]) -> None:
    """Set each BatchNorm layer's running statistics to their mean over batches of inputs.

    Everything else runs as in evaluation.
    """
    norms = [layer for layer in module.modules() if isinstance(layer, NORMS)]
    momenta = [norm.momentum for norm in norms]
    module.eval()  # dropout, say, would draw from the global generator
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
    for count, inputs in enumerate(batches, 1):
        for norm in norms:
            norm.momentum = 1.0 / count  # a plain mean; None would read the count from the device
        module(inputs)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
