"""Convolutions of K models in one call, forward and backward, in the way that a rule chooses."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from fedalign.network.kernels import cast

log = logging.getLogger("fedalign")

FEWEST, MOST = 4, 65_535
"""Channels of outputs in a group, of which fewer make no product for Triton; groups in all."""


class Convolution(NamedTuple):
    """What a convolution needs beside its input and weights, of each axis of space."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    groups: int = 1


class _LoopedConv(torch.autograd.Function):
    """Convolves `(K * B, C, …)` with kernels `(K, O, C / groups, …)`, one model after the other.

    On a CPU nothing is faster: a grouped convolution takes longer, and unfolding twice as long.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
        x, weight, bias = cast(x, weight, bias)
        ctx.save_for_backward(x, weight)
        ctx.rest = rest
        biases = [None] * len(weight) if bias is None else bias
        parts = zip(x.chunk(len(weight)), weight, biases, strict=True)
        return torch.cat([convolved(a, w, b, rest[2]) for a, w, b in parts])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None, None, None]:
        (x, weight), (to_weight, to_bias, how) = ctx.saved_tensors, ctx.rest
        wanted, back = ctx.needs_input_grad[0], []
        mask = (wanted, to_weight is not None, to_bias is not None)
        targets = [target and target.rows() for target in (to_weight, to_bias)]
        parts = zip(grads[0].chunk(len(weight)), x.chunk(len(weight)), weight, strict=True)
        for k, (dy, a, w) in enumerate(parts):
            dx, dw, db = _conv_backward(dy, a, w, how, mask)
            for target, gradient in zip(targets, (dw, db), strict=True):
                if target is not None:
                    target[k].receive(gradient.float())
            back.append(dx)
        return (torch.cat(back) if wanted else None), None, None, None, None, None


class _TritonConv(torch.autograd.Function):
    """Does the same with the kernels of `triton_conv`, for convolutions of images."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
        x, weight, bias = cast(x, weight, bias)
        kernels, how = _triton(), rest[2]
        images, own = kernels.images_of(x, how), kernels.kernels_of(weight)
        ctx.save_for_backward(images, own)
        ctx.rest, ctx.size = rest, x.shape
        y: Tensor = kernels.correlate(images, own, bias, how)
        return y.movedim(-1, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None, None, None]:
        (images, own), (to_weight, to_bias, how) = ctx.saved_tensors, ctx.rest
        kernels, dx = _triton(), None
        dy = kernels.slopes_of(grads[0])
        if to_weight is not None:
            to_weight.receive(kernels.kernels_gradient(dy, images, own, how).movedim(-1, 2))
        if to_bias is not None:
            rows = dy.view(len(own), -1, dy.shape[-1])
            to_bias.receive(rows.sum(1, dtype=torch.float32))
        if ctx.needs_input_grad[0]:
            dx = kernels.images_gradient(dy, own, how, ctx.size)
        return dx, None, None, None, None, None


class _GroupedConv(torch.autograd.Function):
    """Does the same as one convolution with K times the groups: a GPU wants few large calls."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any) -> Tensor:
        x, weight, bias = cast(x, weight, bias)
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
        mask = (wanted, to_weight is not None, to_bias is not None)
        dx, dw, db = _conv_backward(dy, x, kernels, ctx.how, mask)
        if to_weight is not None:
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


looped_conv, grouped_conv, triton_conv = _LoopedConv.apply, _GroupedConv.apply, _TritonConv.apply


def way_of(device: torch.device, shape: Sequence[int], how: Convolution) -> str:
    """Return how kernels `(K, O, C / groups, …)` convolve: `looped`, `grouped` or `triton`.

    On a CPU nothing is faster than one model after the other. cuDNN does the same on a GPU, with
    kernels that are too small for it. Triton's products want at least a few channels of outputs for
    each group.
    """
    if device.type == "cpu":
        return "looped"
    fits = len(how.stride) == 2 and shape[1] // how.groups >= FEWEST
    fits &= device.type == "cuda" and shape[0] * how.groups <= MOST
    return "triton" if fits and triton_failure() is None else "grouped"


def stacked_conv(x: Tensor, weight: Tensor, *rest: Any) -> Tensor:
    """Return the convolution of `(K * B, C, …)` with kernels `(K, O, C / groups, …)`.

    `rest`: biases, where the gradients of kernels and biases go, and the `Convolution`.
    """
    ways = {"looped": looped_conv, "grouped": grouped_conv, "triton": triton_conv}
    y: Tensor = ways[way_of(weight.device, weight.shape, rest[-1])](x, weight, *rest)
    return y


def ways_of(module: nn.Module) -> dict[str, str]:
    """Return how each convolution of a module runs when several models are stacked, by layer."""
    found = {}
    for name, layer in module.named_modules():
        if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            none = (0,) * len(layer.stride)
            how = Convolution(layer.stride, none, layer.dilation, layer.groups)
            found[name] = way_of(layer.weight.device, (1, *layer.weight.shape), how)
    return found


@cache
def triton_failure() -> str | None:
    """Return why Triton cannot convolve on this machine's GPU; None if it can. Logged once."""
    try:
        _try_kernels(torch.device("cuda"))
    except Exception as error:  # Triton needs a C compiler, whose absence has many names
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        log.warning("stacked convolutions run as grouped ones, without Triton: %s", reason)
        return reason
    return None


def _try_kernels(device: torch.device) -> None:
    """Raise unless the kernels convolve as PyTorch does."""
    draw, how = torch.Generator().manual_seed(0), Convolution((1, 1), (1, 1), (1, 1))
    x, w, dy = (
        torch.randn(shape, generator=draw).to(device)
        for shape in ((6, 8, 9, 9), (1, 7, 8, 3, 3), (6, 7, 9, 9))
    )
    dx, dw, _ = _conv_backward(dy, x, w[0], how, (True, True, False))
    kernels = _triton()
    images, own, slopes = kernels.images_of(x, how), kernels.kernels_of(w), kernels.slopes_of(dy)
    ours = (
        kernels.correlate(images, own, None, how).movedim(-1, 1),
        kernels.images_gradient(slopes, own, how, x.shape),
        kernels.kernels_gradient(slopes, images, own, how)[0].movedim(-1, 1),
    )
    for found, expected in zip(ours, (convolved(x, w[0], None, how), dx, dw), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-2, atol=1e-1)


def _triton() -> ModuleType:
    """Return the module of Triton's kernels, which only a GPU needs."""
    from fedalign.network import triton_conv as kernels

    return kernels
