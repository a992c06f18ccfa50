"""Layers of K models in one call, forward and backward.

Each backward pass adds gradients of weights straight to where the optimiser wants them, so autograd
neither allocates nor accumulates them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor


class Target(NamedTuple):
    """Where a gradient goes.

    Attributes:
        place: becomes `keep * place` plus the gradient.
        keep: 0 overwrites what is in `place`, even NaN.
    """

    place: Tensor
    keep: float

    def row(self, k: int) -> Target:
        """Return where the gradient of model k goes."""
        return Target(self.place[k], self.keep)

    def receive(self, gradient: Tensor) -> None:
        """Add a gradient of the same shape to what is kept."""
        if self.keep:
            torch.add(gradient, self.place, alpha=self.keep, out=self.place)
        else:
            self.place.copy_(gradient)


def _cast(*tensors: Tensor | None) -> list[Any]:
    """Return the tensors, in autocast's dtype if autocast is on."""
    device = next(tensor for tensor in tensors if tensor is not None).device.type
    if not torch.is_autocast_enabled(device):
        return list(tensors)
    dtype = torch.get_autocast_dtype(device)
    return [None if tensor is None else tensor.to(dtype) for tensor in tensors]


class _Leaf(torch.autograd.Function):
    """Returns a weight unchanged; its gradient goes to a target."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, target: Target) -> Tensor:
        ctx.target = target
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None]:
        ctx.target.receive(grads[0])
        return None, None


class _Linear(torch.autograd.Function):
    """Maps `(K, B, I)` by weights `(K, O, I)` and biases `(K, O)` to `(K, B, O)`."""

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
    """Convolves `(K * B, C, H, W)` with kernels `(K, O, C, h, w)`, one model after the other.

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
    """Does the same as one convolution with K groups: a GPU wants few large calls."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
        x, weight, bias = _cast(x, weight, bias)
        x, kernels = to_groups(x, len(weight)), weight.flatten(0, 1)
        ctx.save_for_backward(x, kernels)
        ctx.rest, ctx.count = rest, len(weight)
        flat = None if bias is None else bias.flatten()
        stride, padding, dilation = rest[2]
        y = torch.conv2d(x, kernels, flat, stride, padding, dilation, len(weight))
        return from_groups(y, len(weight))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None, None, None]:
        (x, kernels), (to_weight, to_bias, how) = ctx.saved_tensors, ctx.rest
        wanted = ctx.needs_input_grad[0]
        dy = to_groups(grads[0], ctx.count)
        mask = (wanted, True, to_bias is not None)
        dx, dw, db = _conv_backward(dy, x, kernels, how, ctx.count, mask)
        to_weight.receive(dw.view(to_weight.place.shape).float())
        if to_bias is not None:
            to_bias.receive(db.view(to_bias.place.shape).float())
        return (from_groups(dx, ctx.count) if wanted else None), None, None, None, None, None


def to_groups(x: Tensor, count: int) -> Tensor:
    """Return `(K * B, C, H, W)` as `(B, K * C, H, W)`, for K = `count`."""
    return x.view(count, -1, *x.shape[1:]).transpose(0, 1).flatten(1, 2)


def from_groups(x: Tensor, count: int) -> Tensor:
    """Return `(B, K * C, H, W)` as `(K * B, C, H, W)`, for K = `count`."""
    return x.view(len(x), count, -1, *x.shape[2:]).transpose(0, 1).flatten(0, 1)


def _conv_backward(
    dy: Tensor, x: Tensor, weight: Tensor, how: Any, groups: int, mask: tuple[bool, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of input, kernels and biases; `mask` says which are asked for."""
    stride, padding, dilation = how
    none = [0, 0]
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        dy, x, weight, [len(weight)], stride, padding, dilation, False, none, groups, mask
    )
    return found


leaf, linear = _Leaf.apply, _Linear.apply
looped_conv, grouped_conv = _LoopedConv.apply, _GroupedConv.apply
