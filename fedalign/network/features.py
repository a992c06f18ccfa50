"""Features: the input of a network's last linear layer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import local

import torch
from torch import Tensor, nn

from fedalign.network.device import pool


class FeatureRecorder:
    """Records the input of a module's last linear layer, if it has one."""

    def __init__(self, module: nn.Module):
        self._latest = local()  # threads may run one module
        head = last_linear(module)
        if head is not None:
            module.get_submodule(head).register_forward_pre_hook(self._record)

    @property
    def features(self) -> Tensor:
        """`(B, D)`, of this thread's latest forward pass."""
        found: Tensor = getattr(self._latest, "features", torch.empty(0))
        return found

    @features.setter
    def features(self, value: Tensor) -> None:
        self._latest.features = value

    def of(
        self, run: Callable[[Tensor], Tensor], batches: Sequence[Tensor], threads: int = 1
    ) -> Tensor:
        """Return the features of batches of examples, float32; threads share them."""

        def batch(examples: Tensor) -> Tensor:
            with torch.no_grad():  # in each thread
                run(examples)
            return self.features.float()

        shared = threads > 1 and batches[0].device.type == "cpu"
        return torch.cat(list((pool(threads).map if shared else map)(batch, batches)))

    def __deepcopy__(self, _: object) -> FeatureRecorder:
        """Return an empty recorder: a copied module copies its hooks, but graphs have no copy."""
        twin = FeatureRecorder.__new__(FeatureRecorder)
        twin._latest = local()
        return twin

    def _record(self, _: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.features = inputs[0]


def last_linear(module: nn.Module) -> str | None:
    """Return the name of a module's last linear layer; None if it has none."""
    names = [name for name, part in module.named_modules() if isinstance(part, nn.Linear)]
    return names[-1] if names else None
