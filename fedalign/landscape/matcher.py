"""Match the neurons of a round's models as the evaluation settings say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from fedalign.landscape.activations import activation_matching
from fedalign.landscape.matching import Matched, weight_matching
from fedalign.landscape.universe import universe
from fedalign.network.network import Network
from fedalign.settings.sections import Evaluation


class Matcher:
    """Matches models by weights or by activations.

    Args:
        network: the network that all models belong to.
        settings: `match` is weights or activations; `match_start` where weight matching starts.
        images: `(N, C, H, W)` uint8, on which activations are compared.
        stream: decides the order in which weight matching visits the layers.

    Attributes:
        sweeps: number of passes over the layers for each pair so far.
    """

    def __init__(
        self, network: Network, settings: Evaluation, images: Tensor, stream: np.random.Generator
    ):
        self._network, self._settings, self._images = network, settings, images
        self._stream = stream
        self.sweeps: list[int] = []

    def pair(self, reference: Tensor, model: Tensor) -> Tensor:
        """Return the model `(F,)` with its neurons in the order of the reference."""
        matched = self._match(reference, model)
        self.sweeps.append(matched.iterations)
        return model[matched.index]

    def together(self, models: Sequence[Tensor]) -> list[Tensor]:
        """Return all models in one order: by weights a shared one, else that of the first model."""
        network, settings = self._network, self._settings
        if settings.match == "weights":
            layout, groups = network.layout, network.symmetry
            matched = universe(layout, groups, models, self._stream, settings.match_start).models
        else:
            matched = tuple(self._match(models[0], model) for model in models)
        return [model[to.index] for model, to in zip(models, matched, strict=True)]

    def _match(self, reference: Tensor, model: Tensor) -> Matched:
        network, settings = self._network, self._settings
        if settings.match == "weights":
            layout, groups, start = network.layout, network.symmetry, settings.match_start
            return weight_matching(layout, groups, reference, model, self._stream, start)
        batch = settings.statistics_batch
        return activation_matching(network, network.symmetry, reference, model, self._images, batch)
