"""What K clients do in each step of a round: all of it is known before the first step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
import torch
from torch import Tensor

from fedalign.network.batch_norm import batch_sizes
from fedalign.network.device import send

WIDTHS = (1, 3 / 4, 1 / 2, 1 / 4, 1 / 8)  # of a stack, where each shape of a step costs time


@dataclass(frozen=True)
class Step:
    """One step of the first k clients; tensors on the device, which change from step to step.

    Attributes:
        sizes: how many examples of each batch count, `(k,)`, on the host; empty while a step is
            captured, since it must not depend on them.
        rows: the examples of each batch, `(k, B)`, rows of the data set.
        labels: theirs, `(k, B)`; -1 for examples that only fill up a batch, at its end.
        counts: `sizes` as float32, but 1 for a client that has finished.
        rate: what a step adds is this times the update, `(k, 1)`: minus the learning rate, and 0
            for a client that has finished. A number, where it is the same for all.
        root: Adam's correction of the second moment, `(k, 1)`; `(k, 0)` for SGD. AdamW's has a
            second column, the factor on the weights. All are 1 for a client that has finished.
        keys: random keys of the clients, `(k, 2)` int32; `(k, 0)` where nothing draws.
        mix: the share of each example in its mixture with another, `(k, 1)`; `(k, 0)` without
            mixup.
    """

    sizes: Sequence[int]
    rows: Tensor
    labels: Tensor
    counts: Tensor
    rate: Tensor | float
    root: Tensor
    keys: Tensor
    mix: Tensor

    def tensors(self) -> list[Tensor]:
        """Return what changes from step to step."""
        values = self.rows, self.labels, self.counts, self.rate, self.root, self.keys, self.mix
        return [value for value in values if isinstance(value, Tensor)]


@dataclass(frozen=True)
class Batches:
    """Which examples K clients see in each step, on the host.

    In every epoch each client visits its examples in a new order.

    Attributes:
        steps: the number of steps of each client, largest first.
        sizes: the number of examples in each batch, `(T, K)`; 0 once a client has finished.
        index: the rows of the examples, `(T, K, B)`; -1 where an example only fills up a batch.
        keys: a random key of each client in each step, `(T, K, 2)` int32; empty if not asked for.
        mix: a share of mixup of each client in each step, `(T, K, 1)`; empty if not asked for.
    """

    steps: list[int]
    sizes: np.ndarray
    index: np.ndarray
    keys: np.ndarray
    mix: np.ndarray

    @classmethod
    def draw(
        cls,
        rows: Sequence[np.ndarray],
        streams: Sequence[np.random.Generator],
        epochs: Sequence[int],
        batch_size: int,
        with_keys: bool = False,
        pairs: bool = False,
        mixup: float = 0.0,
    ) -> Batches:
        """Return the batches of clients with these examples; the last of an epoch may be smaller.

        With `pairs` no batch has a single example, and B is `batch_size` + 1: see `batch_sizes`.
        `mixup` is alpha of the distribution of shares, Beta(alpha, alpha); 0: there are none.

        Raises:
            ValueError: clients are not sorted by number of steps, largest first.
        """
        counts = [len(own) for own in rows]
        split = {count: batch_sizes(count, batch_size, pairs) for count in set(counts)}
        width = batch_size + pairs
        places = {count: _places(sizes, width) for count, sizes in split.items()}
        per_epoch = [len(split[count]) for count in counts]
        made = [number * n for number, n in zip(epochs, per_epoch, strict=True)]
        if made != sorted(made, reverse=True):
            raise ValueError(
                f"clients must be sorted by number of steps, largest first, not {made}"
            )
        index = np.full((len(rows), made[0], width), -1, np.int64)
        key_shape = len(rows), made[0], 2 if with_keys else 0
        keys: np.ndarray = np.zeros(key_shape, np.int32)
        # Where all batches but the last are full, examples lie one behind the other.
        dense = {count for count, at in places.items() if not count or at[-1] == count - 1}
        flat = index.reshape(len(rows), -1)
        for own, stream, count, n, to in zip(rows, streams, counts, epochs, flat, strict=True):
            length = len(split[count]) * width
            for first in range(0, n * length, length):
                if count in dense:
                    epoch = to[first : first + count]
                    epoch[:] = own
                    stream.shuffle(epoch)  # as `permutation` shuffles a copy
                else:
                    to[first : first + length][places[count]] = stream.permutation(own)
        mix: np.ndarray = np.ones((*key_shape[:2], 1 if mixup else 0), np.float32)
        for stream, steps, to in zip(streams, made, mix, strict=True) if mixup else ():
            to[:steps, 0] = stream.beta(mixup, mixup, steps)
        for stream, to in zip(streams, keys, strict=True) if with_keys else ():
            to[:] = stream.integers(-(2**31), 2**31, to.shape, np.int32)
        by_step = index.swapaxes(0, 1)
        sizes = np.count_nonzero(by_step >= 0, axis=2)
        return cls(made, sizes, by_step, keys.swapaxes(0, 1), mix.swapaxes(0, 1))


def _places(sizes: Sequence[int], width: int) -> np.ndarray:
    """Return where examples lie, in batches of these sizes that are filled up to `width`."""
    filled = np.arange(width) < np.array(sizes)[:, None]
    return np.flatnonzero(filled)


class Plan:
    """The steps of a round on the device, sent there at once.

    On a CPU each step has the clients that still train, and batches as long as the longest of them.
    Where steps are captured, of which each shape costs time, `few_shapes` rounds both up.

    Args:
        batches: which examples each client sees in each step.
        labels: of the whole data set, on the device.
        rates: `(T, K, 1)`, see `Step`.
        roots: `(T, K, 1)`, or another number of columns.
        few_shapes: round the number of clients up to one of a few, and pad all batches.

    Attributes:
        device: where the steps are.
        sizes: the number of examples in each batch, `(T, K)`; on the host.
        widths: the number of clients of each step.
    """

    def __init__(
        self,
        batches: Batches,
        labels: Tensor,
        rates: np.ndarray,
        roots: np.ndarray,
        few_shapes: bool = False,
    ):
        self.device = device = labels.device
        self.sizes = batches.sizes
        self.widths = np.count_nonzero(self.sizes, axis=1).tolist()
        self._lengths = self.sizes.max(1).tolist()
        rate: Tensor | float = float(rates.flat[0])
        if few_shapes or not (rates == rate).all():
            rate = _send(np.where(self.sizes[..., None] > 0, rates, 0).astype(np.float32), device)
        if few_shapes:
            widths = widths_of(self.sizes.shape[1])
            self.widths = [min(w for w in widths if w >= active) for active in self.widths]
            self._lengths = [batches.index.shape[2]] * len(self.widths)
        roots = np.where(self.sizes[..., None] > 0, roots, 1)
        index = _send(batches.index, device)
        rows = index.clamp(min=0)
        self._all = Step(
            (),
            rows,
            labels[rows].masked_fill_(index < 0, -1),
            _send(np.maximum(self.sizes, 1).astype(np.float32), device),
            rate,
            _send(roots.astype(np.float32), device),
            _send(batches.keys, device),
            _send(batches.mix, device),
        )

    def tensors(self) -> list[Tensor]:
        """Return what changes from step to step, `(T, K, …)`."""
        return self._all.tensors()

    def at(self, step: int) -> Step:
        """Return a step, as views of the plan."""
        width, length, every = self.widths[step], self._lengths[step], self._all
        return Step(
            self.sizes[step, :width].tolist(),
            every.rows[step, :width, :length],
            every.labels[step, :width, :length],
            every.counts[step, :width],
            every.rate if isinstance(every.rate, float) else every.rate[step, :width],
            every.root[step, :width],
            every.keys[step, :width],
            every.mix[step, :width],
        )


def widths_of(clients: int) -> list[int]:
    """Return the few numbers of clients, up to `clients`, that a captured step may have."""
    return sorted({1, *(ceil(clients * share) for share in WIDTHS)})


def _send(array: np.ndarray, device: torch.device) -> Tensor:
    """Return an array on the device."""
    return send(torch.from_numpy(np.ascontiguousarray(array)), device)
