"""Features: the input of a network's last linear layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FeatureRecorder:
    """Records the input of a module's last linear layer, if it has one.

    Attributes:
        features: `(B, D)`, of the latest forward pass.
    """

    def __init__(self, module: nn.Module):
        self.features = torch.empty(0)
        linear = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
        if linear:
            linear[-1].register_forward_pre_hook(self._record)

    def __deepcopy__(self, _: object) -> FeatureRecorder:
        """Return an empty recorder: a copied module copies its hooks, but graphs have no copy."""
        twin = FeatureRecorder.__new__(FeatureRecorder)
        twin.features = torch.empty(0)
        return twin

    def _record(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.features = inputs[0]
