"""Many mixes of a few models through one network at once, on the same examples."""

from __future__ import annotations

import threading
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedalign.network.kernels import Target, from_groups
from fedalign.network.layout import Layout
from fedalign.network.stacked import LAYERS, Stacked


class Mixes(Stacked):
    """A twin of a module that runs K mixes of M models, without gradients.

    The first layer is linear in its weights and sees the same examples in every model, so what it
    makes of a mix is the mix of what it makes of the models: it runs M times and not K times.
    """

    def __init__(self, module: nn.Module, layout: Layout):
        super().__init__(module, layout)
        self._entries = {entry.name: entry for entry in layout.entries}
        self._now = threading.local()  # threads have batches of their own
        chains = [chain for chain in self._twin.modules() if isinstance(chain, nn.Sequential)]
        for before, layer in (pair for chain in chains for pair in pairwise(chain)):
            if isinstance(layer, nn.ReLU) and type(before) in LAYERS:
                layer.inplace = True  # nobody else looks at what it gets

    @torch.no_grad()
    def load(self, models: Tensor, shares: Tensor | None) -> None:
        """Take the models to run.

        Args:
            models: `(M, F)`, finite.
            shares: `(K, M)`, of each mix the weights of the models, which add up to 1; None: the
                models themselves, K = M.
        """
        self._models, self._shares = models, shares
        self._count = len(models if shares is None else shares)
        self._mixed: dict[str, Tensor] = {}
        self._twin.eval()

    def view(self, name: str) -> Tensor:
        """Return a tensor of all mixes, `(K, …)`; those of the first layer are not asked for."""
        if name not in self._mixed:
            entry = self._entries[name]
            own = self._models[:, entry.start : entry.stop]
            mixed = own if self._shares is None else self._shares @ own
            self._mixed[name] = replace(entry, start=0).view(mixed)
        return self._mixed[name]

    def weight(self, name: str) -> tuple[Tensor, Target]:
        """Return a parameter of all mixes, which asks for no gradient."""
        return self.view(name), Target(torch.empty(0), 0.0)

    @torch.no_grad()
    def logits(self, images: Tensor) -> Tensor:
        """Return what each mix puts out for normalised images `(B, C, H, W)`: `(K, B, classes)`."""
        self._now.rows = len(images)
        logits: Tensor = self._twin(images)
        return logits.view(self._count, len(images), -1)

    def first(self, layer: nn.Linear | nn.Conv2d, prefix: str, x: Tensor) -> Tensor | None:
        """Return what a layer that sees the images makes of them, `(K * B, …)`."""
        if len(x) != self._now.rows:
            return None
        weight = self._entries[f"{prefix}weight"].view(self._models)
        bias = None if layer.bias is None else self._entries[f"{prefix}bias"].view(self._models)
        rows, flat = weight.flatten(0, 1), None if bias is None else bias.flatten()
        if isinstance(layer, nn.Linear):
            y = functional.linear(x, rows, flat).view(len(x), len(weight), -1).transpose(0, 1)
        else:
            how: Any = layer.stride, layer.padding, layer.dilation
            y = from_groups(torch.conv2d(x, rows, flat, *how), len(weight))
            y = y.view(len(weight), len(x), *y.shape[1:])
        mixed = y if self._shares is None else (self._shares @ y.flatten(1)).view(-1, *y.shape[1:])
        return mixed.flatten(0, 1)
