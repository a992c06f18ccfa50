"""Loss and accuracy of models over a data set, batch by batch."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor

from fedalign.data import Dataset
from fedalign.network.device import pool
from fedalign.network.losses import losses_of, tasks_of

WORTH_A_THREAD = 0.003  # seconds
CPU_BATCH, GPU_BATCH = 200, 2000  # examples; a GPU's batch is smaller if they need much memory
SHARE = 64  # the part of a GPU's memory for activations is 1 / SHARE


def batch_on_gpu(memory: int, activations: int) -> int:
    """Return how many examples to evaluate at once on a GPU.

    Args:
        memory: all bytes of the GPU.
        activations: bytes of one example.
    """
    return max(1, min(GPU_BATCH, memory // SHARE // max(1, activations)))


def evaluate(
    logits_of: Callable[[Tensor], Tensor],
    data: Dataset,
    batch_size: int,
    device: torch.device,
    threads: int = 1,
) -> Tensor:
    """Return the mean cross-entropy and the accuracy of each of K models on all of `data`.

    The result `(K, 2)`, float64, stays on the device, so that nothing waits for it here.
    `logits_of` returns logits `(K, B, classes)` for a batch of examples as `data` stores them.
    Batches are shared out to threads, which changes no bit of the result.
    """
    tasks = tasks_of(data.label_sets, device)

    def batch(start: int) -> tuple[Tensor, Tensor]:
        rows = slice(start, start + batch_size)
        with torch.no_grad():  # in each thread
            logits = logits_of(data.images[rows].to(device))
            labels = data.labels[rows].to(device).expand(len(logits), -1)
            logits = tasks.own(logits, labels)
            return losses_of(logits, labels).sum(1), (logits.argmax(2) == labels).sum(1)

    starts = range(0, len(data), batch_size)
    began = time.perf_counter()
    parts = [batch(0)]
    # Short batches keep one thread busy with Python, and a second thread would only wait for it.
    share = threads > 1 and time.perf_counter() - began > WORTH_A_THREAD and device.type == "cpu"
    parts += (pool(threads).map if share else map)(batch, starts[1:])
    sums = [torch.stack(own).double().sum(0) for own in zip(*parts, strict=True)]
    return torch.stack(sums, 1) / len(data)
