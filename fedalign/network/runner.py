"""Two ways to run K models on a batch each, and whether they compute the same."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from fedalign.network.inputs import Inputs
from fedalign.network.layout import Layout
from fedalign.network.losses import Loss

log = logging.getLogger("fedalign")


class Runner(Protocol):
    """Runs a network with K sets of weights, on a batch for each.

    `OneByOne` binds a plain module to one model after the other; `Stacked` runs all in one pass.
    """

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
        """Return the mean loss of each model on its own batch, `(K,)`.

        Args:
            block: `(K, F)` models; their BatchNorm statistics are updated in place.
            inputs: `(K * B, …)`, the batches of all models, as the module takes them.
            labels: `(K, B)` int64; -1 for examples that only fill up the batch, at its end.
            sizes: how many examples of each batch count.
            out: `(K, P)`, becomes `keep * out` plus the gradients.
            keep: 0 overwrites what is in `out`, even NaN.
            loss: None is cross-entropy.
        """
        ...


def agree(plain: Runner, stacked: Runner, layout: Layout, start: Tensor, inputs: Inputs) -> bool:
    """Return whether a stacked network computes what its module does.

    Tried with two random models around `start` `(F,)`, which is on the CPU.

    It may differ, or fail, where the module uses a layer's weights without calling the layer,
    mixes the examples of a batch, or draws random numbers.
    """
    count, draw, sizes = layout.parameter_size, torch.Generator().manual_seed(0), [4, 3]
    models = start.repeat(2, 1)
    noise = 0.02 * torch.randn(2, layout.num_parameters, generator=draw)
    models[:, :count] += layout.spread(noise)
    examples = torch.randint(0, inputs.values, (8, *inputs.shape), generator=draw)
    examples = examples.to(inputs.device, torch.uint8)
    labels = torch.tensor([[0, 0, 0, 0], [0, 0, 0, -1]], device=inputs.device)

    def results(runner: Runner) -> Tensor:
        block = models.to(inputs.device, copy=True)
        gradient = torch.full_like(block[:, :count], torch.nan)  # all must be overwritten
        loss = runner.gradients(block, inputs(examples), labels, sizes, gradient)
        return torch.cat([loss, layout.compact(gradient).flatten(), block.flatten()])

    expected = results(plain)
    try:
        return bool((results(stacked) - expected).norm() <= 1e-2 * expected.norm())
    except RuntimeError as error:  # tensors do not fit, or a layer's own weights were used
        if type(error) is not RuntimeError:  # the device's, such as `torch.OutOfMemoryError`
            raise
        log.warning("clients train one by one, since the network cannot be stacked: %s", error)
        return False
