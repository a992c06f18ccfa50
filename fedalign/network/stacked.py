"""K models through one network at once.

Simulated clients are small and alike, so K of them are trained as one. Their batches are folded
into one of `K * B` examples. Whatever treats examples one by one runs on that as it is; only layers
with weights must know that each B examples have weights of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor, nn

from fedalign.network.device import autocast
from fedalign.network.features import FeatureRecorder
from fedalign.network.kernels import Target
from fedalign.network.layout import Layout
from fedalign.network.losses import Loss, losses_of
from fedalign.network.random_layers import Draws
from fedalign.network.stacked_layers import LAYERS, stacked_twin


class Stacked:
    """Runs K models in one pass through a twin of a module.

    Its layers take from here what they need: see `fedalign.network.stacked_layers.Weights`.
    `TypeError` for a module that has weights in other layers, or weights that layers share.

    Attributes:
        bf16: forward passes run under autocast.
        examples: `(K, B)`, which examples of the latest batch count.
    """

    def __init__(
        self, module: nn.Module, layout: Layout, bf16: bool = False, draws: Draws | None = None
    ):
        self.bf16, self.examples = bf16, torch.empty(0)
        self._layout, self._keep, self._draws = layout, 0.0, draws or Draws()
        self._tensors: dict[str, Tensor] = {}
        self._gradients: dict[str, Tensor] = {}
        self._bound: tuple[int, ...] | None = None
        self._twin = stacked_twin(module, layout, self, LAYERS).train()

    @cached_property
    def _recorder(self) -> FeatureRecorder:
        return FeatureRecorder(self._twin)

    def parameter(self, name: str) -> tuple[Tensor, Target]:
        """Return a parameter's `(K, …)` view, and where its gradient goes."""
        return self._tensors[name], Target(self._gradients[name], self._keep)

    def buffer(self, name: str) -> Tensor:
        """Return a float buffer's `(K, …)` view."""
        return self._tensors[name]

    def gradients(
        self,
        block: Tensor,
        inputs: Tensor,
        labels: Tensor,
        sizes: Sequence[int],
        out: Tensor,
        keep: float = 0.0,
        loss: Loss | None = None,
    ) -> Tensor:
        """Return the mean loss of each model on its own batch, `(K,)`: see `Runner`."""
        self._bind(block, out)
        if loss is not None:  # it may leave some weights alone, whose gradients nothing overwrites
            out.mul_(keep) if keep else out.zero_()
            keep = 1.0
        self.examples, self._keep = labels >= 0, keep
        self._draws.begin(slice(0, len(block)))
        with autocast(block.device, self.bf16):
            mean = self._losses(inputs, labels, loss).sum(1) / torch.tensor(sizes).to(block.device)
            mean.sum().backward()  # type: ignore[no-untyped-call]
        return mean.detach()

    def _losses(self, inputs: Tensor, labels: Tensor, loss: Loss | None) -> Tensor:
        """Return the loss of each example, `(K, B)`."""
        if loss is None:
            return losses_of(self._twin(inputs).float(), labels)
        recorder = self._recorder  # before the forward pass
        logits = self._twin(inputs).float().view(*labels.shape, -1)
        features = recorder.features.float().view(*labels.shape, -1)
        return loss(logits, labels, features, slice(0, len(labels)))

    def _bind(self, block: Tensor, out: Tensor) -> None:
        """Take the views of models `(K, F)` and of their gradients, unless they are taken."""
        place = (block.data_ptr(), out.data_ptr(), len(block))
        if place == self._bound:
            return
        parameters, buffers = self._layout.parameters, self._layout.buffers
        # `data`: BatchNorm's statistics change in the same block before autograd is done with it.
        self._tensors = {e.name: e.view(block).data.requires_grad_() for e in parameters}
        self._tensors |= {e.name: e.view(block) for e in buffers}
        self._gradients = {e.name: e.view(out) for e in parameters}
        self._bound = place
