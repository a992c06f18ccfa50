"""Loss and accuracy of the models between models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from fedalign.data import Dataset
from fedalign.landscape.barriers import Curve, Point
from fedalign.landscape.paths import Mix, Path
from fedalign.landscape.repair import Repair
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

    def points(self, models: Models, mixes: Sequence[Mix], repaired: bool = False) -> list[Point]:
        """Return each mix's mean cross-entropy and accuracy; equal mixes are measured once.

        Args:
            models: what is mixed.
            mixes: what to measure.
            repaired: rescale the activations of mixes, see `Repair`.
        """
        places: dict[frozenset[tuple[str, float]], int] = {}
        index = [places.setdefault(frozenset(mix.items()), len(places)) for mix in mixes]
        asked = dict(zip(index, mixes, strict=True))
        repair = Repair(self._network, models, self._images) if repaired else None
        found = [self._point(models, asked[place], repair) for place in range(len(asked))]
        return [found[place] for place in index]

    def curves(self, models: Models, paths: Sequence[Path]) -> list[Curve]:
        """Return the curve of each path."""
        curves: dict[str, Curve] = {}
        for repaired in (False, True):
            own = [path for path in paths if path.repaired == repaired]
            mixes = [mix for path in own for mix in path.mixes()]
            points = iter(self.points(models, mixes, repaired))
            curves |= {path.name: curve(path, [next(points) for _ in path.alphas]) for path in own}
        return [curves[path.name] for path in paths]

    def _point(self, models: Models, mix: Mix, repair: Repair | None) -> Point:
        settings, network = self._settings, self._network
        first, *others = mix
        vector = models[first].clone()  # in this form a mix of equal models is that model, exactly
        for name in others:
            vector += mix[name] * (models[name] - models[first])
        vector = network.recalibrate(vector, self._images, settings.batch_size)
        vector = repair(vector, mix) if repair else vector
        return network.evaluate(vector, self._probe, settings.batch_size, settings.threads)


def curve(path: Path, points: Sequence[Point]) -> Curve:
    """Return the curve of the points measured along a path."""
    losses, accuracies = zip(*points, strict=True)
    return Curve(path.name, path.alphas, np.array(losses), np.array(accuracies))
