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
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedalign.parameters import Layout


class Target(NamedTuple):
    """Where a gradient goes: it is added to `keep` times what is there."""

    place: Tensor
    keep: float

    def row(self, k: int) -> Target:
        """Return where the gradient of one model goes."""
        return Target(self.place[k], self.keep)

    def receive(self, gradient: Tensor) -> None:
        """Take in a gradient of the same shape."""
        if self.keep:
            torch.add(gradient, self.place, alpha=self.keep, out=self.place)
        else:
            self.place.copy_(gradient)


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
            loss: see `fedalign.network.Loss`; None is cross-entropy.
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

    def weight(self, name: str) -> tuple[Tensor, Target]:
        """Return a parameter's `(K, …)` view, which asks for a gradient, and where that goes."""
        return self._weights[name], Target(self._gradients[name], self.keep)

    def buffer(self, name: str) -> Tensor:
        """Return a float buffer's `(K, …)` view."""
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
    weight, target = stacked.weight(f"{prefix}weight")
    bias = stacked.weight(f"{prefix}bias") if layer.bias is not None else (None, None)
    rows = x.reshape(len(weight), -1, x.shape[-1])
    y: Tensor = _Linear.apply(rows, weight, bias[0], target, bias[1])
    return y.view(*x.shape[:-1], -1)


def _conv2d(layer: nn.Conv2d, stacked: Stacked, prefix: str, x: Tensor) -> Tensor:
    weight, target = stacked.weight(f"{prefix}weight")
    bias = stacked.weight(f"{prefix}bias") if layer.bias is not None else (None, None)
    how = (layer.stride, layer.padding, layer.dilation)
    kind = _GroupedConv if x.is_cuda else _LoopedConv
    y: Tensor = kind.apply(x, weight, bias[0], target, bias[1], how)
    return y


def _batch_norm(layer: nn.BatchNorm2d, stacked: Stacked, prefix: str, x: Tensor) -> Tensor:
    """Normalise each client's own examples; those that only fill up a batch do not count."""
    momentum = cast(float, layer.momentum)
    count = len(stacked.examples)
    folded = x.float().view(count, -1, *x.shape[1:])
    counts = stacked.examples[:, :, None, None, None]
    n = counts.sum((1, 3, 4), dtype=torch.float32) * x.shape[2] * x.shape[3]  # (K, 1)
    mean = torch.where(counts, folded, 0).sum((1, 3, 4)) / n
    centred = folded - mean[:, None, :, None, None]
    variance = torch.where(counts, centred, 0).square().sum((1, 3, 4)) / n
    with torch.no_grad():
        unbiased = variance * n / (n - 1).clamp(min=1)
        stacked.buffer(f"{prefix}running_mean").lerp_(mean, momentum)
        stacked.buffer(f"{prefix}running_var").lerp_(unbiased, momentum)
    y = centred * (variance + layer.eps).rsqrt()[:, None, :, None, None]
    return _scaled(stacked, prefix, y).view(x.shape) if layer.affine else y.view(x.shape)


def _group_norm(layer: nn.GroupNorm, stacked: Stacked, prefix: str, x: Tensor) -> Tensor:
    y = functional.group_norm(x, layer.num_groups, eps=layer.eps)
    if not layer.affine:
        return y
    count = len(stacked.examples)
    return _scaled(stacked, prefix, y.view(count, -1, *x.shape[1:])).view(x.shape)


def _scaled(stacked: Stacked, prefix: str, y: Tensor) -> Tensor:
    """Scale and shift the channels of `(K, B, C, H, W)` by a norm's weight and bias."""
    weight, bias = (_Leaf.apply(*stacked.weight(f"{prefix}{key}")) for key in ("weight", "bias"))
    scaled: Tensor = y * weight[:, None, :, None, None] + bias[:, None, :, None, None]
    return scaled


LAYERS: dict[type[nn.Module], Callable[..., Tensor]] = {
    nn.Linear: _linear,
    nn.Conv2d: _conv2d,
    nn.BatchNorm2d: _batch_norm,
    nn.GroupNorm: _group_norm,
}


def _cast(*tensors: Tensor | None) -> list[Any]:
    """Return the tensors in autocast's type, where autocast is on."""
    device = next(tensor for tensor in tensors if tensor is not None).device.type
    if not torch.is_autocast_enabled(device):
        return list(tensors)
    dtype = torch.get_autocast_dtype(device)
    return [None if tensor is None else tensor.to(dtype) for tensor in tensors]


class _Leaf(torch.autograd.Function):
    """A weight as it is; its gradient goes to where the optimiser wants it."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, target: Target) -> Tensor:
        ctx.target = target
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None]:
        ctx.target.receive(grads[0])
        return None, None


class _Linear(torch.autograd.Function):
    """`(K, B, I)` through `(K, O, I)` weights to `(K, B, O)`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, to_weight: Any, to_bias: Any
    ) -> Tensor:
        x, weight, bias = _cast(x, weight, bias)
        ctx.save_for_backward(x, weight)
        ctx.to = to_weight, to_bias
        if bias is None:
            return torch.bmm(x, weight.transpose(1, 2))
        return torch.baddbmm(bias[:, None], x, weight.transpose(1, 2))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        (dy,), (x, weight), (to_weight, to_bias) = grads, ctx.saved_tensors, ctx.to
        if dy.dtype == to_weight.place.dtype:
            to_weight.place.baddbmm_(dy.transpose(1, 2), x, beta=to_weight.keep)
        else:
            to_weight.receive(torch.bmm(dy.transpose(1, 2), x).float())
        if to_bias is not None:
            to_bias.receive(dy.sum(1, dtype=torch.float32))
        return (torch.bmm(dy, weight) if ctx.needs_input_grad[0] else None), None, None, None, None


class _LoopedConv(torch.autograd.Function):
    """`(K * B, C, H, W)` through `(K, O, C, h, w)` kernels, one client after the other.

    On a CPU nothing is faster: a grouped convolution takes longer, and unfolding twice as long.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
        x, weight, bias = _cast(x, weight, bias)
        ctx.save_for_backward(x, weight)
        ctx.rest = rest
        biases = [None] * len(weight) if bias is None else bias
        parts = zip(x.chunk(len(weight)), weight, biases, strict=True)
        return torch.cat([torch.conv2d(a, w, b, *rest[2]) for a, w, b in parts])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None, None, None]:
        (x, weight), (to_weight, to_bias, how) = ctx.saved_tensors, ctx.rest
        wanted, back = ctx.needs_input_grad[0], []
        parts = zip(grads[0].chunk(len(weight)), x.chunk(len(weight)), weight, strict=True)
        for k, (dy, a, w) in enumerate(parts):
            dx, dw, db = _conv_backward(dy, a, w, how, 1, (wanted, True, to_bias is not None))
            to_weight.row(k).receive(dw.float())
            if to_bias is not None:
                to_bias.row(k).receive(db.float())
            back.append(dx)
        return (torch.cat(back) if wanted else None), None, None, None, None, None


class _GroupedConv(torch.autograd.Function):
    """The same as one convolution with K groups: a GPU wants few and large calls."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
        x, weight, bias = _cast(x, weight, bias)
        x, kernels = _to_groups(x, len(weight)), weight.flatten(0, 1)
        ctx.save_for_backward(x, kernels)
        ctx.rest, ctx.count = rest, len(weight)
        flat = None if bias is None else bias.flatten()
        stride, padding, dilation = rest[2]
        y = torch.conv2d(x, kernels, flat, stride, padding, dilation, len(weight))
        return _from_groups(y, len(weight))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None, None, None]:
        (x, kernels), (to_weight, to_bias, how) = ctx.saved_tensors, ctx.rest
        wanted = ctx.needs_input_grad[0]
        dy = _to_groups(grads[0], ctx.count)
        mask = (wanted, True, to_bias is not None)
        dx, dw, db = _conv_backward(dy, x, kernels, how, ctx.count, mask)
        to_weight.receive(dw.view(to_weight.place.shape).float())
        if to_bias is not None:
            to_bias.receive(db.view(to_bias.place.shape).float())
        return (_from_groups(dx, ctx.count) if wanted else None), None, None, None, None, None


def _to_groups(x: Tensor, count: int) -> Tensor:
    """`(K * B, C, H, W)` to `(B, K * C, H, W)`."""
    return x.view(count, -1, *x.shape[1:]).transpose(0, 1).flatten(1, 2)


def _from_groups(x: Tensor, count: int) -> Tensor:
    """`(B, K * C, H, W)` to `(K * B, C, H, W)`."""
    return x.view(len(x), count, -1, *x.shape[2:]).transpose(0, 1).flatten(0, 1)


def _conv_backward(
    dy: Tensor, x: Tensor, weight: Tensor, how: Any, groups: int, mask: tuple[bool, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    stride, padding, dilation = how
    none = [0, 0]
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        dy, x, weight, [len(weight)], stride, padding, dilation, False, none, groups, mask
    )
    return found
