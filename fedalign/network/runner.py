"""The ways to run K models on a batch each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from fedalign.network.losses import Loss


class Runner(Protocol):
    """Runs a network with K sets of weights, on a batch for each.

    `OneByOne` binds a plain module to one model after the other; `Stacked` runs all in one
    pass.
    """

    def gradients(
        self,
        block: Tensor,
        inputs: Tensor,
        labels: Tensor,
        sizes: Sequence[int],
        out: Tensor,
        keep: float = 0.0,
        loss: Loss | None = None,
        counts: Tensor | None = None,
    ) -> Tensor:
        """Return the mean loss of each model on its own batch, `(K,)`.

        Args:
            block: `(K, F)` models; their BatchNorm statistics are updated in place.
            inputs: `(K * B, …)`, the batches of all models, as the module takes them.
            labels: `(K, B)` int64; -1 for examples that only fill up the batch, at its end.
            sizes: how many examples of each batch count.
            out: `(K, P)`, becomes `keep * out` plus the gradients.
            keep: 0 overwrites what is in `out`, even NaN.
            loss: None is cross-entropy.
            counts: `sizes` on the device, `(K,)` float32, at least 1; None: they are sent there.
        """
        ...
