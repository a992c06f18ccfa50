"""Loss and accuracy of the models between models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from fedalign.data import Dataset
from fedalign.landscape.barriers import Curve, Point
from fedalign.landscape.paths import Mix, Path
from fedalign.network import Network
from fedalign.sections import Evaluation

Models = Mapping[str, Tensor]
"""Models `(F,)` by name."""


class Evaluator:
    """Measures mixes of named models on a fixed subset of the test set.

    BatchNorm statistics are re-estimated on every mix, the models themselves included, so that a
    barrier compares like with like.

    Args:
        network: what the models are weights of.
        test: its first `settings.examples` are the subset.
        train: its first `settings.bn_examples` serve to re-estimate statistics.
        settings: how much of it, and how.
    """

    def __init__(self, network: Network, test: Dataset, train: Dataset, settings: Evaluation):
        self._network, self._settings = network, settings
        self._probe = test.subset(settings.examples)
        self._images = train.subset(settings.bn_examples).images

    def points(self, models: Models, mixes: Sequence[Mix]) -> list[Point]:
        """Return each mix's mean cross-entropy and accuracy; equal mixes are measured once."""
        places: dict[frozenset[tuple[str, float]], int] = {}
        index = [places.setdefault(frozenset(mix.items()), len(places)) for mix in mixes]
        asked = dict(zip(index, mixes, strict=True))
        found = [self._point(models, asked[place]) for place in range(len(asked))]
        return [found[place] for place in index]

    def curves(self, models: Models, paths: Sequence[Path]) -> list[Curve]:
        """Return the curve of each path."""
        points = iter(self.points(models, [mix for path in paths for mix in path.mixes()]))
        return [curve(path, [next(points) for _ in path.alphas]) for path in paths]

    def _point(self, models: Models, mix: Mix) -> Point:
        settings, network = self._settings, self._network
        first, *others = mix
        vector = models[first].clone()  # in this form a mix of equal models is that model, exactly
        for name in others:
            vector += mix[name] * (models[name] - models[first])
        vector = network.recalibrate(vector, self._images, settings.batch_size)
        return network.evaluate(vector, self._probe, settings.batch_size, settings.threads)


def curve(path: Path, points: Sequence[Point]) -> Curve:
    """Return the curve of the points measured along a path."""
    losses, accuracies = zip(*points, strict=True)
    return Curve(path.name, path.alphas, np.array(losses), np.array(accuracies))
