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

from fedalign.network.constants import constants, copied
from fedalign.network.device import autocast
from fedalign.network.features import FeatureRecorder
from fedalign.network.kernels import Target
from fedalign.network.layout import Layout
from fedalign.network.losses import Loss, losses_of
from fedalign.network.random_layers import Draws
from fedalign.network.stacked_layers import (
    StackedConv1d,
    StackedConv2d,
    StackedConv3d,
    StackedEmbedding,
    StackedLinear,
)
from fedalign.network.stacked_norms import (
    StackedBatchNorm1d,
    StackedBatchNorm2d,
    StackedBatchNorm3d,
    StackedGroupNorm,
    StackedLayerNorm,
    StackedPReLU,
    StackedRMSNorm,
)
from fedalign.network.stacked_sequences import (
    StackedAttention,
    StackedGRU,
    StackedLSTM,
    StackedRNN,
)
from fedalign.network.twins import Layers, stacked_twin
from fedalign.network.vmapped import Vmapped

LAYERS: Layers = {
    nn.Linear: StackedLinear,
    nn.modules.linear.NonDynamicallyQuantizableLinear: StackedLinear,  # of attention
    nn.Conv1d: StackedConv1d,
    nn.Conv2d: StackedConv2d,
    nn.Conv3d: StackedConv3d,
    nn.Embedding: StackedEmbedding,
    nn.BatchNorm1d: StackedBatchNorm1d,
    nn.BatchNorm2d: StackedBatchNorm2d,
    nn.BatchNorm3d: StackedBatchNorm3d,
    nn.GroupNorm: StackedGroupNorm,
    nn.LayerNorm: StackedLayerNorm,
    nn.RMSNorm: StackedRMSNorm,
    nn.PReLU: StackedPReLU,
    nn.RNN: StackedRNN,
    nn.LSTM: StackedLSTM,
    nn.GRU: StackedGRU,
    nn.MultiheadAttention: StackedAttention,
}


class Stacked:
    """Runs K models in one pass through a twin of a module.

    Its layers take from here what they need: see `fedalign.network.twins.Weights`. `TypeError`
    names a layer that has no stacked form, unless the module is `vmapped`.

    Attributes:
        bf16: forward passes run under autocast.
        examples: `(K, B)`, which examples of the latest batch count.
        smallest: the smallest batch of a model that has one; 0 if that is not known.
    """

    def __init__(
        self,
        module: nn.Module,
        layout: Layout,
        bf16: bool = False,
        draws: Draws | None = None,
        vmapped: bool = False,
    ):
        self.bf16, self.examples, self.smallest = bf16, torch.empty(0), 0
        self._layout, self._draws = layout, draws or Draws()
        self._constants, self._tensors = constants(module), dict[str, Tensor]()
        self._gradients: dict[str, Tensor] = {}
        self._targets: dict[str, Target] = {}
        self._bound: tuple[int, ...] | None = None
        self.twin: nn.Module
        if vmapped:
            self.twin = Vmapped(copied(module), layout, self, self._draws)
        else:
            self.twin = stacked_twin(module, self, LAYERS)
        self.twin.train()

    @cached_property
    def _recorder(self) -> FeatureRecorder:
        if isinstance(self.twin, Vmapped):
            return self.twin.recorder
        return FeatureRecorder(self.twin)

    def parameter(self, name: str) -> tuple[Tensor, Target | None]:
        """Return a parameter's `(K, …)` view, and where its gradient goes; None for a constant."""
        return self._tensors[name], self._targets.get(name)

    def buffer(self, name: str) -> Tensor:
        """Return a float buffer's `(K, …)` view."""
        return self._tensors[name]

    def batch_size(self) -> int:
        """Return B, of the latest batch."""
        return self.examples.shape[1]

    def gradients(
        self,
        block: Tensor,
        inputs: Tensor,
        labels: Tensor,
        sizes: Sequence[int],
        out: Tensor,
        keep: float = 0.0,
        loss: Loss | None = None,
        counts: Tensor | None = None,
    ) -> Tensor:
        """Return the mean loss of each model on its own batch, `(K,)`: see `Runner`."""
        self._bind(block, out)
        if loss is not None:  # it may leave some weights alone, whose gradients nothing overwrites
            out.mul_(keep) if keep else out.zero_()
            keep = 1.0
        if counts is None:
            counts = torch.tensor(sizes, dtype=torch.float32, device=block.device)
        self.examples, self.smallest = labels >= 0, min(filter(None, sizes), default=0)
        self._targets = {name: Target(place, keep) for name, place in self._gradients.items()}
        self._draws.begin(slice(0, len(block)))
        with autocast(block.device, self.bf16):
            mean = self._losses(inputs, labels, loss).sum(1) / counts
            mean.sum().backward()  # type: ignore[no-untyped-call]
        for target in self._targets.values():
            target.close()
        if loss is not None or isinstance(self.twin, Vmapped):
            self._recorder.features = torch.empty(0)  # else its autograd graph would outlive a step
        return mean.detach()

    def forget(self) -> None:
        """Let go of the models that ran last."""
        self._tensors, self._gradients, self._targets, self._bound = {}, {}, {}, None

    def _losses(self, inputs: Tensor, labels: Tensor, loss: Loss | None) -> Tensor:
        """Return the loss of each example, `(K, B)`."""
        if loss is None:
            return losses_of(self.twin(inputs).float(), labels)
        recorder = self._recorder  # before the forward pass
        logits = self.twin(inputs).float().view(*labels.shape, -1)
        features = recorder.features.float()
        if features.numel():  # a network without a linear layer has none
            features = features.view(*labels.shape, -1)
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
        self._tensors |= {
            n: own.expand(len(block), *own.shape) for n, own in self._constants.items()
        }
        self._gradients = {e.name: e.view(out) for e in parameters}
        self._bound = place
