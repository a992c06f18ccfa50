"""Measure models of one network on one data set, again and again."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor, nn

from fedalign.data import Dataset
from fedalign.network.graphs import Captured, Graphs
from fedalign.network.network import Network

FEW = 4  # models, of which each multiple is a shape of its own
log = logging.getLogger("fedalign")


class Scorer:
    """Measures models on a data set.

    On a GPU a pass over the data set only touches tensors that stay where they are. When a pass
    with the same number of models comes again it is captured, and from then on replayed.

    Args:
        network: the network that all models belong to.
        data: the data set, on the network's device.
        batch_size: examples in one forward pass; None: what suits the device.
        threads: on a CPU, they share the batches.
    """

    def __init__(
        self, network: Network, data: Dataset, batch_size: int | None = None, threads: int = 1
    ):
        self._network, self._how = network, (data, batch_size, threads)
        captures = network.device.type == "cuda" and not network.traits.depends[False]
        self.graphs = Graphs() if captures else None

    def scores(self, vector: Tensor) -> Tensor:
        """Return mean cross-entropy and accuracy of the model `(F,)`, `(1, 2)` on the device."""
        return self._run(self._scores, vector)

    def evaluate_mixes(self, models: Tensor, shares: Tensor | None) -> Tensor:
        """Return the scores `(K, 2)` of mixtures, see `Network.evaluate_mixes`.

        What is captured has one of a few shapes: numbers of models and mixtures are rounded up.
        """
        count = len(models if shares is None else shares)
        if self.graphs is not None:
            models = _padded(models)
            if shares is not None:
                shares = _padded(nn.functional.pad(shares, (0, len(models) - shares.shape[1])))
        inputs = (models,) if shares is None else (models, shares)
        return self._run(self._of_mixes, *inputs)[:count]

    def _scores(self, vector: Tensor) -> Tensor:
        return self._network.scores(vector, *self._how)

    def _of_mixes(self, models: Tensor, shares: Tensor | None = None) -> Tensor:
        return self._network.evaluate_mixes(models, shares, *self._how)

    def _run(self, measure: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        if self.graphs is None:
            return measure(*inputs)
        graphs, key = self.graphs, tuple(tensor.shape for tensor in inputs)
        try:
            return graphs.kept(key, lambda: Pass(graphs, measure, self._network.device))(*inputs)
        except torch.OutOfMemoryError:
            log.warning("the GPU has no room for graphs of the measurements, which run without")
            self.graphs = None
            return measure(*inputs)


def _padded(rows: Tensor) -> Tensor:
    """Return rows with copies of the first one behind them, up to a multiple of `FEW`."""
    missing = -len(rows) % FEW
    return torch.cat([rows, rows[:1].expand(missing, *rows.shape[1:])]) if missing else rows


class Pass:
    """A pass over a data set as a function of tensors that stay where they are.

    Args:
        graphs: captures it.
        measure: returns scores `(K, 2)` of its inputs, and waits for nothing.
        device: where it runs.
    """

    def __init__(self, graphs: Graphs, measure: Callable[..., Tensor], device: torch.device):
        self._captured, self._measure, self._device = Captured(graphs), measure, device
        self._runs = 0

    def __call__(self, *inputs: Tensor) -> Tensor:
        """Return the scores of these inputs, which always have the same shapes."""
        if not self._runs:
            self._inputs = [tensor.to(self._device, copy=True) for tensor in inputs]
            self._scores = self._measure(*self._inputs)
        else:
            for own, given in zip(self._inputs, inputs, strict=True):
                own.copy_(given, non_blocking=True)
            self._captured.do(self._work, [self._scores], self._runs)
        self._runs += 1
        return self._scores.clone()

    def _work(self) -> None:
        self._scores.copy_(self._measure(*self._inputs))
