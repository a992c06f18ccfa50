"""K models through a plain module, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedalign.network.device import autocast, without_cudnn
from fedalign.network.features import FeatureRecorder
from fedalign.network.layout import Layout
from fedalign.network.losses import Loss
from fedalign.network.random_layers import Draws
from fedalign.network.state import own_parts


class OneByOne:
    """Runs K models by binding a module to one after the other.

    Attributes:
        module: the module; its tensors are views of the model that was bound last.

    Args:
        bf16: forward passes run under autocast.
        draws: what the module's random layers take their masks from.
    """

    def __init__(
        self, module: nn.Module, layout: Layout, bf16: bool = False, draws: Draws | None = None
    ):
        self.module, self._layout, self._bf16 = module, layout, bf16
        self._draws = draws or Draws()
        self._bound: tuple[int, int] | None = None
        # cuDNN seeds the dropout inside recurrent layers once in a process.
        recurrent = [part for part in module.modules() if isinstance(part, nn.RNNBase)]
        self._without_cudnn = any(part.dropout for part in recurrent)
        entries = {entry.name: entry for entry in layout.buffers}
        self._buffers = [
            (part, key, entries[name])
            for prefix, part in own_parts(module)
            for key, _ in part.named_buffers(recurse=False)
            if (name := f"{prefix}.{key}".lstrip(".")) in entries
        ]

    @cached_property
    def recorder(self) -> FeatureRecorder:
        """Records the features of each forward pass from now on."""
        return FeatureRecorder(self.module)

    def bind(self, vector: Tensor, gradient: Tensor | None = None) -> None:
        """Point the module at a model `(F,)`, and its gradients at `(P,)`.

        Does nothing if it points there already, as in every step of a client. What the module
        points at cannot be freed, so the same address is the same memory.
        """
        place = (vector.data_ptr(), 0 if gradient is None else gradient.data_ptr())
        if place != self._bound:
            self._layout.bind(self.module, vector)
            if gradient is not None:
                self._layout.bind_gradients(self.module, gradient)
            self._bound = place

    def run(self, inputs: Tensor) -> Tensor:
        """Return the logits of the bound model, float32."""
        with autocast(inputs.device, self._bf16):
            logits: Tensor = self.module(inputs).float()
        return logits

    def gradients(
        self,
        block: Tensor,
        inputs: Tensor,
        labels: Tensor,
        sizes: Sequence[int],
        out: Tensor,
        keep: float = 0.0,
        loss: Loss | None = None,
        counts: Tensor | None = None,  # noqa: ARG002
    ) -> Tensor:
        """Return the mean loss of each model on its own batch, `(K,)`: see `Runner`."""
        if not self.module.training:  # walking through all modules costs as much as a small layer
            self.module.train()
        out.mul_(keep) if keep else out.zero_()
        recorder = self.recorder if loss is not None else None  # before the first forward pass
        losses, length = [], labels.shape[1]
        for k, size in enumerate(sizes):
            self.bind(block[k], out[k])
            self._draws.begin(slice(k, k + 1))
            with without_cudnn() if self._without_cudnn else nullcontext():
                logits = self.run(inputs[k * length : k * length + size])
            own = labels[k, :size]
            if loss is None or recorder is None:
                mean = functional.cross_entropy(logits, own)
            else:
                features = recorder.features.float()[None]
                mean = loss(logits[None], own[None], features, slice(k, k + 1)).mean()
            mean.backward()  # type: ignore[no-untyped-call]
            losses.append(mean.detach())
            self._take_in(block[k])
        return torch.stack(losses)

    @torch.no_grad()
    def _take_in(self, vector: Tensor) -> None:
        """Copy buffers into the bound model that the module has replaced instead of changed."""
        for part, key, entry in self._buffers:
            buffer, place = getattr(part, key), entry.view(vector)
            if buffer.data_ptr() != place.data_ptr():
                place.copy_(buffer)
                setattr(part, key, place)
