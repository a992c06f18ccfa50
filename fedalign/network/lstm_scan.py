"""The recurrence of K LSTM layers, forward and backward.

Autograd would need three times as many operations for each time, most of them tiny.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fedalign.network.kernels import Target


class _Scan(torch.autograd.Function):
    """Maps the inputs' share of the gates `(T, K, B, 4H)` to outputs `(T, K, B, H)` and last cells.

    It takes the states before the first time, `(K, B, H)` each, and the kernel `(K, 4H, H)` by
    which outputs come back. Gates are in PyTorch's order: input, forget, new, output. All is
    float32, also under autocast.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, h: Tensor, c: Tensor, kernel: Tensor, target: Target | None
    ) -> tuple[Tensor, Tensor]:
        back, new = kernel.transpose(1, 2), slice(2 * h.shape[2], 3 * h.shape[2])
        outputs, gates = [h], []
        cells = [c]
        with torch.autocast(x.device.type, enabled=False):
            for own in x.float().unbind():
                raw = torch.baddbmm(own, outputs[-1], back)
                at = raw.sigmoid()
                at[..., new] = raw[..., new].tanh()
                into, forget, fresh, out = at.chunk(4, 2)
                cells.append(torch.addcmul(forget * cells[-1], into, fresh))
                outputs.append(out * cells[-1].tanh())
                gates.append(at)
        every = torch.stack(outputs)
        ctx.save_for_backward(torch.stack(gates), torch.stack(cells), every, kernel)
        ctx.target = target
        return every[1:], cells[-1]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        gates, cells, outputs, kernel = ctx.saved_tensors
        dy, dc = grads
        size, found = dc.shape[2], torch.empty_like(gates)
        with torch.autocast(dy.device.type, enabled=False):
            slopes, to_cell = _slopes(gates, cells)
            dh = dy[-1]
            for t in reversed(range(len(gates))):
                dc = torch.addcmul(dc, dh, to_cell[t])
                folded, into = (x[t].view(*dc.shape[:2], 4, size) for x in (slopes, found))
                torch.mul(folded[:, :, :3], dc[:, :, None], out=into[:, :, :3])
                torch.mul(folded[:, :, 3], dh, out=into[:, :, 3])
                dc = dc * gates[t][..., size : 2 * size]
                dh = torch.bmm(found[t], kernel) if t == 0 else dy[t - 1].baddbmm(found[t], kernel)
            if ctx.target is not None:
                rows = found.movedim(0, 1).flatten(1, 2), outputs[:-1].movedim(0, 1).flatten(1, 2)
                ctx.target.receive(torch.bmm(rows[0].transpose(1, 2), rows[1]))
        return found, dh, dc, None, None


def _slopes(gates: Tensor, cells: Tensor) -> tuple[Tensor, Tensor]:
    """Return how outputs and cells change with the gates' inputs, and cells with outputs."""
    into, forget, fresh, out = gates.chunk(4, 3)
    done = cells[1:].tanh()
    slopes = torch.cat(
        [
            fresh * into * (1 - into),
            cells[:-1] * forget * (1 - forget),
            into * (1 - fresh.square()),
            done * out * (1 - out),
        ],
        3,
    )
    return slopes, out * (1 - done.square())


lstm_scan = _Scan.apply
