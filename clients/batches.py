"""Which examples each of K clients sees in each of its steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class Batches:
    """Every epoch each client passes over its own examples in a fresh order.

    Args:
        rows: which examples each client owns; `ValueError` unless who has most stands first.
        streams: each client's generator.
        epochs: passes over the examples.
        batch_size: B; the last batch of an epoch may be smaller.
        device: where the examples are.

    Attributes:
        steps: how many steps each client makes, the most first.
        sizes: `(T, K)`, how many examples each batch has; 0 once a client is done.
    """

    def __init__(
        self,
        rows: Sequence[np.ndarray],
        streams: Sequence[np.random.Generator],
        epochs: int,
        batch_size: int,
        device: torch.device,
    ):
        counts = [len(owned) for owned in rows]
        if counts != sorted(counts, reverse=True):
            raise ValueError(f"clients must be sorted by examples, most first, not {counts}")
        an_epoch = [-(-count // batch_size) for count in counts]
        self.steps = [epochs * steps for steps in an_epoch]
        index = np.zeros((len(rows), self.steps[0], batch_size), np.int64)
        sizes = np.zeros((len(rows), self.steps[0]), np.int64)
        for k, (owned, stream, steps) in enumerate(zip(rows, streams, an_epoch, strict=True)):
            for epoch in range(epochs):
                taken = slice(epoch * steps, (epoch + 1) * steps)
                index[k, taken].reshape(-1)[: counts[k]] = stream.permutation(owned)
                sizes[k, taken] = batch_size
                sizes[k, taken.stop - 1] = counts[k] - (steps - 1) * batch_size
        self._index = torch.from_numpy(index).to(device)
        self.sizes = torch.from_numpy(sizes.T.copy())
        self._sizes = [[size for size in row if size] for row in sizes.T.tolist()]

    def at(self, step: int) -> tuple[Tensor, list[int]]:
        """Return the examples `(k, B)` of those who still train, and how many of each B count."""
        sizes = self._sizes[step]
        return self._index[: len(sizes), step, : max(sizes)], sizes

    def mark(self, labels: Tensor, sizes: list[int]) -> Tensor:
        """Return labels `(k, B)` with -1 for what only fills up a batch."""
        if min(sizes) == labels.shape[1]:
            return labels
        places = torch.arange(labels.shape[1], device=labels.device)
        return labels.masked_fill(places >= torch.tensor(sizes, device=labels.device)[:, None], -1)
