"""Which examples each of K clients sees in each of its steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


class Batches:
    """The minibatches of a stack: in every epoch each client visits its examples in a new order.

    Args:
        rows: the examples of each client.
        streams: the generator of each client.
        epochs: the number of passes over the examples.
        batch_size: B; the last batch of an epoch may be smaller.
        device: where the examples are.

    Raises:
        ValueError: clients are not sorted by number of examples, largest first.

    Attributes:
        steps: the number of steps of each client, largest first.
        sizes: the number of examples in each batch, `(T, K)`; 0 once a client has finished.
    """

    def __init__(
        self,
        rows: Sequence[np.ndarray],
        streams: Sequence[np.random.Generator],
        epochs: int,
        batch_size: int,
        device: torch.device,
    ):
        counts = [len(own) for own in rows]
        if counts != sorted(counts, reverse=True):
            raise ValueError(
                f"clients must be sorted by number of examples, largest first, not {counts}"
            )
        per_epoch = [-(-count // batch_size) for count in counts]
        self.steps = [epochs * steps for steps in per_epoch]
        index = np.zeros((len(rows), self.steps[0], batch_size), np.int64)
        sizes = np.zeros((len(rows), self.steps[0]), np.int64)
        for k, (own, stream, steps) in enumerate(zip(rows, streams, per_epoch, strict=True)):
            for epoch in range(epochs):
                taken = slice(epoch * steps, (epoch + 1) * steps)
                index[k, taken].reshape(-1)[: counts[k]] = stream.permutation(own)
                sizes[k, taken] = batch_size
                sizes[k, taken.stop - 1] = counts[k] - (steps - 1) * batch_size
        self._index = torch.from_numpy(index).to(device)
        self.sizes = torch.from_numpy(sizes.T.copy())
        self._sizes = [[size for size in row if size] for row in sizes.T.tolist()]

    def at(self, step: int) -> tuple[Tensor, list[int]]:
        """Return the rows `(k, B)` of the k clients that still train, and their batch sizes.

        Rows beyond a client's batch size only fill up the batch.
        """
        sizes = self._sizes[step]
        return self._index[: len(sizes), step, : max(sizes)], sizes

    def mark(self, labels: Tensor, sizes: list[int]) -> Tensor:
        """Return labels `(k, B)` with -1 for examples that only fill up a batch."""
        if min(sizes) == labels.shape[1]:
            return labels
        places = torch.arange(labels.shape[1], device=labels.device)
        return labels.masked_fill(places >= torch.tensor(sizes, device=labels.device)[:, None], -1)
