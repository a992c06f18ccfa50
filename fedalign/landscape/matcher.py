"""The neurons of a round's models brought in one order, in the way that a run asks for."""

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
    """Aligns models by weights or by activations.

    Args:
        network: what the models are weights of.
        settings: say by what, and where weight matching starts.
        images: `(N, C, H, W)` uint8, on which activations are compared.
        stream: decides the order in which weight matching goes through the layers.

    Attributes:
        sweeps: passes over the layers that each pair took.
    """

    def __init__(
        self, network: Network, settings: Evaluation, images: Tensor, stream: np.random.Generator
    ):
        self._network, self._settings, self._images = network, settings, images
        self._stream = stream
        self.sweeps: list[int] = []

    def pair(self, reference: Tensor, model: Tensor) -> Tensor:
        """Return the model `(F,)` with its neurons in the order of the reference's."""
        matched = self._match(reference, model)
        self.sweeps.append(matched.iterations)
        return model[matched.index]

    def together(self, models: Sequence[Tensor]) -> list[Tensor]:
        """Return all models in one order: by weights in none of theirs, else in the first's."""
        network, settings = self._network, self._settings
        if settings.match == "weights":
            layout, groups = network.layout, network.symmetry
            found = universe(layout, groups, models, self._stream, settings.match_start).models
        else:
            found = tuple(self._match(models[0], model) for model in models)
        return [model[one.index] for model, one in zip(models, found, strict=True)]

    def _match(self, reference: Tensor, model: Tensor) -> Matched:
        network, settings = self._network, self._settings
        if settings.match == "weights":
            layout, groups, start = network.layout, network.symmetry, settings.match_start
            return weight_matching(layout, groups, reference, model, self._stream, start)
        return activation_matching(
            network, network.symmetry, reference, model, self._images, settings.batch_size
        )
