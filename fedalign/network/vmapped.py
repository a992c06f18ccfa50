"""K models through any module at once, by `torch.func.vmap`."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.func import functional_call

from fedalign.network.features import FeatureRecorder
from fedalign.network.kernels import leaf
from fedalign.network.layout import Layout
from fedalign.network.random_layers import Draws
from fedalign.network.twins import Weights


class Vmapped(nn.Module):
    """Stands for a module whose layers cannot be stacked; it takes `(K * B, …)` as a twin does.

    Fails for a module that draws from PyTorch's global generators. One that mixes examples sees
    those that only fill up a batch too.

    Attributes:
        recorder: records the features of the latest forward pass.
    """

    def __init__(self, module: nn.Module, layout: Layout, weights: Weights, draws: Draws):
        super().__init__()
        # The log says that a network is vmapped; PyTorch would say of each operation that it loops.
        warnings.filterwarnings("ignore", "There is a performance drop")
        self.module, self.recorder = module, FeatureRecorder(module)
        self._layout, self._weights, self._draws = layout, weights, draws

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits `(K * B, classes)` of each model for its own examples."""
        layout, weights = self._layout, self._weights
        tensors = {e.name: leaf(*weights.parameter(e.name)) for e in layout.parameters}
        tensors |= {e.name: weights.buffer(e.name) for e in layout.buffers}
        folded = x.view(-1, weights.batch_size(), *x.shape[1:])
        keys = self._draws.of(x.device)
        logits, features = torch.vmap(self._one)(tensors, folded, keys)
        self.recorder.features = features.flatten(0, 1)
        found: Tensor = logits.flatten(0, 1)
        return found

    def _one(self, tensors: dict[str, Tensor], x: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits and features of one model."""
        with self._draws.only(key[None]):
            logits: Tensor = functional_call(self.module, tensors, (x,))
        return logits, self.recorder.features
