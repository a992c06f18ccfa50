"""Many sets of weights through one network at once.

Clients are small and alike, so K of them are trained as one: their batches are folded into one of
`K * B` examples, which passes through everything that treats examples one by one as it is. Only
layers with weights need to know that each B examples have weights of their own; those known here
are in `LAYERS`. They write their gradients where the optimiser wants them, without a detour.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cached_property
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedalign.network.kernels import Target, grouped_conv, leaf, linear, looped_conv
from fedalign.network.layout import Layout


def losses_of(logits: Tensor, labels: Tensor) -> Tensor:
    """Return each example's cross-entropy, in the shape of `labels`; 0 where the label is -1."""
    flat = logits.reshape(labels.numel(), -1)
    losses = functional.cross_entropy(flat, labels.flatten(), reduction="none", ignore_index=-1)
    return losses.view(labels.shape)


class Tap:
    """Sees what comes into the last linear layer of a module, if it has one.

    Attributes:
        seen: `(B, D)`, of the latest forward pass.
    """

    def __init__(self, module: nn.Module):
        self.seen = torch.empty(0)
        linear = [layer for layer in module.modules() if isinstance(layer, nn.Linear)]
        if linear:
            linear[-1].register_forward_pre_hook(self._see)

    def __deepcopy__(self, _: object) -> Tap:
        """Return a tap for a copy of the module; what was seen may be part of a graph."""
        twin = Tap.__new__(Tap)
        twin.seen = torch.empty(0)
        return twin

    def _see(self, _: nn.Module, given: tuple[Tensor, ...]) -> None:
        self.seen = given[0]


class Stacked:
    """A twin of a module that runs with K sets of weights at once.

    Raises `TypeError` for a module with weights in a layer that is not in `LAYERS`, or with a
    weight that several layers share.
    """

    def __init__(self, module: nn.Module, layout: Layout):
        self._layout = layout
        self._twin = copy.deepcopy(module).train()
        self._weights: dict[str, Tensor] = {}
        self._gradients: dict[str, Tensor] = {}
        self._bound: tuple[int, ...] | None = None
        self.examples, self.keep = torch.empty(0), 0.0
        owned = []
        for name, layer in self._twin.named_modules():
            own = [f"{name}.{key}".lstrip(".") for key, _ in layer.named_parameters(recurse=False)]
            if own and (type(layer) not in LAYERS or not _is_plain(layer)):
                raise TypeError(f"{name or 'the model'} is a {layer} with weights of its own")
            if type(layer) in LAYERS:
                forward, prefix = LAYERS[type(layer)], f"{name}." if name else ""
                layer.forward = _bound_forward(forward, layer, self, prefix)
            owned += own
        if sorted(owned) != sorted(entry.name for entry in layout.parameters):
            raise TypeError("layers share a weight")

    def gradients(
        self,
        block: Tensor,
        images: Tensor,
        labels: Tensor,
        sizes: Tensor,
        out: Tensor,
        keep: float = 0.0,
        loss: Callable[[Tensor, Tensor, Tensor, slice], Tensor] | None = None,
    ) -> Tensor:
        """Return the mean loss of each model on its own batch, `(K,)`.

        Args:
            block: `(K, F)` models; their BatchNorm statistics are updated in place.
            images: `(K * B, C, H, W)`, normalised.
            labels: `(K, B)`; -1 marks an example that only fills up the batch.
            sizes: `(K,)`, how many examples of each batch count.
            out: `(K, P)`, becomes `keep * out` plus the gradients.
            keep: 0 overwrites what is in `out`, whatever it is.
            loss: see `fedalign.network.network.Loss`; None is cross-entropy.
        """
        self._bind(block, out)
        if loss is not None:  # which may leave some weights alone, that nothing then overwrites
            out.mul_(keep) if keep else out.zero_()
            keep = 1.0
        self.examples, self.keep = labels >= 0, keep
        tap = self._tap if loss is not None else None
        logits = self._twin(images).float()
        if loss is None or tap is None:
            losses = losses_of(logits, labels)
        else:
            seen = tap.seen.float().view(*labels.shape, -1)
            losses = loss(logits.view(*labels.shape, -1), labels, seen, slice(0, len(labels)))
        mean = losses.sum(1) / sizes
        mean.sum().backward()  # type: ignore[no-untyped-call]
        return mean.detach()

    @cached_property
    def _tap(self) -> Tap:
        return Tap(self._twin)

    def first(self, layer: nn.Linear | nn.Conv2d, prefix: str, x: Tensor) -> Tensor | None:  # noqa: ARG002
        """Return what a layer makes of examples that all models share; None: they do not."""
        return None

    def weight(self, name: str) -> tuple[Tensor, Target]:
        """Return a parameter's `(K, …)` view, which asks for a gradient, and where that goes."""
        return self._weights[name], Target(self._gradients[name], self.keep)

    def view(self, name: str) -> Tensor:
        """Return a parameter's or float buffer's `(K, …)` view."""
        return self._weights[name]

    def _bind(self, block: Tensor, out: Tensor) -> None:
        place = (block.data_ptr(), out.data_ptr(), len(block))
        if place == self._bound:
            return
        parameters, buffers = self._layout.parameters, self._layout.buffers
        # `data`: BatchNorm's statistics change in the same block before autograd is done with it.
        self._weights = {e.name: e.view(block).data.requires_grad_() for e in parameters}
        self._weights |= {e.name: e.view(block) for e in buffers}
        self._gradients = {e.name: e.view(out) for e in parameters}
        self._bound = place


def _bound_forward(
    forward: Callable[..., Tensor], layer: nn.Module, stacked: Stacked, prefix: str
) -> Callable[[Tensor], Tensor]:
    return lambda x: forward(layer, stacked, prefix, x)


def _is_plain(layer: nn.Module) -> bool:
    """Return whether the layer has none of the options that its stacked form does not know."""
    if isinstance(layer, nn.Conv2d):
        return (
            layer.groups == 1 and layer.padding_mode == "zeros" and isinstance(layer.padding, tuple)
        )
    if isinstance(layer, nn.BatchNorm2d):
        return layer.track_running_stats and layer.momentum is not None
    return True


def _linear(layer: nn.Linear, stacked: Stacked, prefix: str, x: Tensor) -> Tensor:
    first = stacked.first(layer, prefix, x)
    if first is not None:
        return first
    weight, target = stacked.weight(f"{prefix}weight")
    bias = stacked.weight(f"{prefix}bias") if layer.bias is not None else (None, None)
    rows = x.reshape(len(weight), -1, x.shape[-1])
    y: Tensor = linear(rows, weight, bias[0], target, bias[1])
    return y.view(*x.shape[:-1], -1)


def _conv2d(layer: nn.Conv2d, stacked: Stacked, prefix: str, x: Tensor) -> Tensor:
    first = stacked.first(layer, prefix, x)
    if first is not None:
        return first
    weight, target = stacked.weight(f"{prefix}weight")
    bias = stacked.weight(f"{prefix}bias") if layer.bias is not None else (None, None)
    how = (layer.stride, layer.padding, layer.dilation)
    kind = grouped_conv if x.is_cuda else looped_conv
    y: Tensor = kind(x, weight, bias[0], target, bias[1], how)
    return y


def _batch_norm(layer: nn.BatchNorm2d, stacked: Stacked, prefix: str, x: Tensor) -> Tensor:
    """Normalise each model's own examples; those that only fill up a batch do not count."""
    mean, variance = (stacked.view(f"{prefix}running_{key}") for key in ("mean", "var"))
    folded = x.float().view(len(mean), -1, *x.shape[1:])
    if layer.training:
        counts = stacked.examples[:, :, None, None, None]
        n = counts.sum((1, 3, 4), dtype=torch.float32) * x.shape[2] * x.shape[3]  # (K, 1)
        own = torch.where(counts, folded, 0).sum((1, 3, 4)) / n
        centred = folded - own[:, None, :, None, None]
        spread = torch.where(counts, centred, 0).square().sum((1, 3, 4)) / n
        with torch.no_grad():
            mean.lerp_(own, cast(float, layer.momentum))
            variance.lerp_(spread * n / (n - 1).clamp(min=1), cast(float, layer.momentum))
    else:
        centred, spread = folded - mean[:, None, :, None, None], variance
    y = centred * (spread + layer.eps).rsqrt()[:, None, :, None, None]
    return _scaled(stacked, prefix, y).view(x.shape) if layer.affine else y.view(x.shape)


def _group_norm(layer: nn.GroupNorm, stacked: Stacked, prefix: str, x: Tensor) -> Tensor:
    y = functional.group_norm(x, layer.num_groups, eps=layer.eps)
    if not layer.affine:
        return y
    return _scaled(
        stacked, prefix, y.view(len(stacked.view(f"{prefix}weight")), -1, *x.shape[1:])
    ).view(x.shape)


def _scaled(stacked: Stacked, prefix: str, y: Tensor) -> Tensor:
    """Scale and shift the channels of `(K, B, C, H, W)` by a norm's weight and bias."""
    weight, bias = (leaf(*stacked.weight(f"{prefix}{key}")) for key in ("weight", "bias"))
    scaled: Tensor = y * weight[:, None, :, None, None] + bias[:, None, :, None, None]
    return scaled


LAYERS: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv2d,
    nn.BatchNorm2d: _batch_norm,
    nn.GroupNorm: _group_norm,
}
