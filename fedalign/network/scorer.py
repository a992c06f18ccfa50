"""Measure models of one network on one data set, again and again."""

from __future__ import annotations

from torch import Tensor

from fedalign.data import Dataset
from fedalign.network.network import Network


class Scorer:
    """Measures models on a data set.

    Args:
        network: the network that all models belong to.
        data: the data set.
        batch_size: examples in one forward pass; None: what suits the device.
        threads: on a CPU, they share the batches.
    """

    def __init__(
        self, network: Network, data: Dataset, batch_size: int | None = None, threads: int = 1
    ):
        self._network, self._how = network, (data, batch_size, threads)

    def scores(self, vector: Tensor) -> Tensor:
        """Return mean cross-entropy and accuracy of the model `(F,)`, `(1, 2)` on the device."""
        return self._network.scores(vector, *self._how)

    def evaluate_mixes(self, models: Tensor, shares: Tensor | None) -> Tensor:
        """Return the scores `(K, 2)` of mixtures, see `Network.evaluate_mixes`."""
        return self._network.evaluate_mixes(models, shares, *self._how)
