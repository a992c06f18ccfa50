"""Layers of K models in one call, forward and backward.

Each backward pass adds gradients of weights straight to where the optimiser wants them, so autograd
neither allocates nor accumulates them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor


@dataclass
class Target:
    """Where a gradient goes; a weight that is used several times gets the sum.

    Attributes:
        place: becomes `keep * place` plus the gradient.
        keep: 0 overwrites what is in `place`, even NaN. 1 once a gradient has come.
        used: whether a gradient has come.
    """

    place: Tensor
    keep: float
    used: bool = False

    def take(self) -> float:
        """Return what a gradient must multiply `place` by before it is added."""
        keep, self.keep, self.used = self.keep, 1.0, True
        return keep

    def rows(self) -> list[Target]:
        """Return where the gradient of each model goes; all must be used."""
        keep = self.take()
        return [Target(row, keep) for row in self.place]

    def receive(self, gradient: Tensor) -> None:
        """Add a gradient of the same shape to what is kept."""
        if keep := self.take():
            torch.add(gradient, self.place, alpha=keep, out=self.place)
        else:
            self.place.copy_(gradient)

    def close(self) -> None:
        """Take no gradient for a gradient of 0."""
        if not self.used:
            self.place.mul_(self.keep) if self.keep else self.place.zero_()


class Convolution(NamedTuple):
    """What a convolution needs beside its input and weights, of each axis of space."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1


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
            to_weight.place.baddbmm_(dy.transpose(1, 2), x, beta=to_weight.take())
        else:
            to_weight.receive(torch.bmm(dy.transpose(1, 2), x).float())
        if to_bias is not None:
            to_bias.receive(dy.sum(1, dtype=torch.float32))
        return (torch.bmm(dy, weight) if ctx.needs_input_grad[0] else None), None, None, None, None


class _LoopedConv(torch.autograd.Function):
    """Convolves `(K * B, C, …)` with kernels `(K, O, C / groups, …)`, one model after the other.

    On a CPU nothing is faster: a grouped convolution takes longer, and unfolding twice as long.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
        x, weight, bias = _cast(x, weight, bias)
        ctx.save_for_backward(x, weight)
        ctx.rest = rest
        biases = [None] * len(weight) if bias is None else bias
        parts = zip(x.chunk(len(weight)), weight, biases, strict=True)
        return torch.cat([convolved(a, w, b, rest[2]) for a, w, b in parts])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None, None, None]:
        (x, weight), (to_weight, to_bias, how) = ctx.saved_tensors, ctx.rest
        wanted, back = ctx.needs_input_grad[0], []
        mask, to_weights = (wanted, True, to_bias is not None), to_weight.rows()
        to_biases = to_weights if to_bias is None else to_bias.rows()
        parts = zip(grads[0].chunk(len(weight)), x.chunk(len(weight)), weight, strict=True)
        for k, (dy, a, w) in enumerate(parts):
            dx, dw, db = _conv_backward(dy, a, w, how, mask)
            to_weights[k].receive(dw.float())
            if to_bias is not None:
                to_biases[k].receive(db.float())
            back.append(dx)
        return (torch.cat(back) if wanted else None), None, None, None, None, None


class _GroupedConv(torch.autograd.Function):
    """Does the same as one convolution with K times the groups: a GPU wants few large calls."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
        x, weight, bias = _cast(x, weight, bias)
        x, kernels = to_groups(x, len(weight)), weight.flatten(0, 1)
        ctx.save_for_backward(x, kernels)
        ctx.rest, ctx.count = rest, len(weight)
        stride, padding, dilation, groups = rest[2]
        ctx.how = Convolution(stride, padding, dilation, len(weight) * groups)
        y = convolved(x, kernels, None if bias is None else bias.flatten(), ctx.how)
        return from_groups(y, len(weight))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None, None, None]:
        (x, kernels), (to_weight, to_bias, _) = ctx.saved_tensors, ctx.rest
        wanted = ctx.needs_input_grad[0]
        dy = to_groups(grads[0], ctx.count)
        dx, dw, db = _conv_backward(dy, x, kernels, ctx.how, (wanted, True, to_bias is not None))
        to_weight.receive(dw.view(to_weight.place.shape).float())
        if to_bias is not None:
            to_bias.receive(db.view(to_bias.place.shape).float())
        return (from_groups(dx, ctx.count) if wanted else None), None, None, None, None, None


class _Embedding(torch.autograd.Function):
    """Looks codes `(K * B, …)` up in tables `(K, V, D)`; the padding's row gets no gradient."""

    @staticmethod
    def forward(
        ctx: Any, codes: Tensor, weight: Tensor, target: Target, padding: int | None
    ) -> Tensor:
        firsts = torch.arange(len(weight), device=codes.device) * weight.shape[1]
        rows = (codes.reshape(len(weight), -1) + firsts[:, None]).view(codes.shape)
        ctx.save_for_backward(rows)
        ctx.target, ctx.padding = target, padding
        return torch.embedding(weight.flatten(0, 1), rows)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[None, None, None, None]:
        (rows,), place = ctx.saved_tensors, ctx.target.place
        count = len(place) * place.shape[1]
        found = torch.ops.aten.embedding_dense_backward(grads[0], rows, count, -1, False)
        found = found.view(place.shape).float()
        if ctx.padding is not None:
            found[:, ctx.padding].zero_()
        ctx.target.receive(found)
        return None, None, None, None


def to_groups(x: Tensor, count: int) -> Tensor:
    """Return `(K * B, C, H, W)` as `(B, K * C, H, W)`, for K = `count`."""
    return x.view(count, -1, *x.shape[1:]).transpose(0, 1).flatten(1, 2)


def from_groups(x: Tensor, count: int) -> Tensor:
    """Return `(B, K * C, H, W)` as `(K * B, C, H, W)`, for K = `count`."""
    return x.view(len(x), count, -1, *x.shape[2:]).transpose(0, 1).flatten(0, 1)


def convolved(x: Tensor, weight: Tensor, bias: Tensor | None, how: Convolution) -> Tensor:
    """Return a convolution of `(B, C, …)`."""
    none = [0] * len(how.stride)
    return torch.convolution(x, weight, bias, *how[:3], False, none, how.groups)


def _conv_backward(
    dy: Tensor, x: Tensor, weight: Tensor, how: Convolution, mask: tuple[bool, ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of input, kernels and biases; `mask` says which are asked for."""
    none = [0] * len(how.stride)
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        dy, x, weight, [len(weight)], *how[:3], False, none, how.groups, mask
    )
    return found


leaf, linear, embedding = _Leaf.apply, _Linear.apply, _Embedding.apply
looped_conv, grouped_conv = _LoopedConv.apply, _GroupedConv.apply
