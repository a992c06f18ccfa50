"""Decodes the models in messages, once, onto the device that computes with them."""

from __future__ import annotations

from operator import is_not
from typing import Any

import torch
from flwr.app import ArrayRecord
from torch import Tensor

from fedalign.network.arrays import shared_by_copies
from fedalign.network.flat import flat_of
from fedalign.network.layout import Layout

KEPT = 2  # models: that before a round, and that after it


class Receiver:
    """Decodes records of models.

    Args:
        layout: of the models.
        device: where their vectors go.
    """

    def __init__(self, layout: Layout, device: torch.device):
        self._layout, self._device = layout, device
        self._known: list[tuple[list[object], Tensor]] = []
        self._staged: tuple[Tensor, Any] | None = None

    def receive(self, arrays: ArrayRecord) -> Tensor:
        """Return a model `(F,)`, and remember it. Not to be changed."""
        data = list(map(shared_by_copies, arrays.values()))
        vector = self._remembered(data)
        if vector is None:
            vector = self._decoded(arrays)
            self._known = [(data, vector), *self._known[: KEPT - 1]]
        return vector

    def vector_of(self, arrays: ArrayRecord) -> Tensor:
        """Return a model `(F,)`, decoded unless it is remembered. Not to be changed."""
        vector = self._remembered(list(map(shared_by_copies, arrays.values())))
        return self._decoded(arrays) if vector is None else vector

    def _remembered(self, data: list[object]) -> Tensor | None:
        for known, vector in self._known:
            if not any(map(is_not, data, known)):
                return vector
        return None

    def _decoded(self, arrays: ArrayRecord) -> Tensor:
        flat = flat_of(arrays, self._layout)
        if flat is not None:
            return flat.on(self._device)
        if self._device.type != "cuda":
            return self._layout.to_vector(arrays)
        return self._sent(arrays)

    def _sent(self, arrays: ArrayRecord) -> Tensor:
        """Return a model by way of page-locked memory, which is slow to allocate and used again."""
        if self._staged is None:
            place = torch.zeros(self._layout.size, pin_memory=True)
            self._staged = place, torch.cuda.Event()  # type: ignore[no-untyped-call]
        place, copied = self._staged
        copied.synchronize()
        vector = self._layout.fill(place, arrays).to(self._device, non_blocking=True)
        copied.record()
        return vector
