"""Layers of K models in one call, forward and backward.

Each backward pass adds gradients of weights straight to where the optimiser wants them, so autograd
neither allocates nor accumulates them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

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


def cast(*tensors: Tensor | None) -> list[Any]:
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
        x, weight, bias = cast(x, weight, bias)
        ctx.save_for_backward(x, weight)
        ctx.to = to_weight, to_bias
        if bias is None:
            return torch.bmm(x, weight.transpose(1, 2))
        return torch.baddbmm(bias[:, None], x, weight.transpose(1, 2))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, None, None, None, None]:
        (dy,), (x, weight), (to_weight, to_bias) = grads, ctx.saved_tensors, ctx.to
        if to_weight is None:  # a constant
            pass
        elif dy.dtype == to_weight.place.dtype:
            to_weight.place.baddbmm_(dy.transpose(1, 2), x, beta=to_weight.take())
        else:
            to_weight.receive(torch.bmm(dy.transpose(1, 2), x).float())
        if to_bias is not None:
            to_bias.receive(dy.sum(1, dtype=torch.float32))
        return (torch.bmm(dy, weight) if ctx.needs_input_grad[0] else None), None, None, None, None


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


leaf, linear, embedding = _Leaf.apply, _Linear.apply, _Embedding.apply
