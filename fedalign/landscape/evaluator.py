"""Loss and accuracy of mixes of models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from math import isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fedalign.data import Dataset
from fedalign.landscape.barriers import Curve, Point
from fedalign.landscape.paths import Mix, Path
from fedalign.landscape.repair import Repair
from fedalign.network.flat import MANY
from fedalign.network.network import Network
from fedalign.network.scorer import Scorer
from fedalign.settings.sections import Evaluation

MAX_MIXES, MAX_ON_GPU = 32, 64  # mixes measured at once; on a CPU more do not run faster
MAX_NUMBERS = 1 << 26  # parameters of all mixes measured at once; more may not fit in memory

Key = frozenset[tuple[str, float]]
Models = Mapping[str, Tensor]
"""Models `(F,)` by name."""


class Evaluator:
    """Measures mixes of named models on a fixed subset of the test set.

    BatchNorm statistics are re-estimated for every mix, including the models themselves, so that a
    barrier compares like with like. Many mixes are measured at once if the network supports it.

    Args:
        network: the network that all models belong to.
        test: the test set; `settings.examples` of it are the subset.
        train: `settings.bn_examples` of it re-estimate statistics; None if there are none.
        settings: sizes of the subsets, batch size and threads.
    """

    def __init__(
        self, network: Network, test: Dataset, train: Dataset | None, settings: Evaluation
    ):
        self._network, self._batch = network, settings.statistics_batch
        probe, batch = test.subset(settings.examples), settings.batch_size
        self._scorer = Scorer(network, probe, batch, settings.threads)
        self._images = images_of(train, test, settings)

    def points(self, models: Models, mixes: Sequence[Mix], repaired: bool = False) -> list[Point]:
        """Return mean cross-entropy and accuracy of each mix; equal mixes are measured once.

        See `start` for the arguments.
        """
        return self.start(models, mixes, repaired)()

    def start(
        self, models: Models, mixes: Sequence[Mix], repaired: bool = False
    ) -> Callable[[], list[Point]]:
        """Measure mixes; a GPU goes on until what is returned is called for the points.

        Args:
            models: the models to mix.
            mixes: the mixes to measure.
            repaired: whether to rescale the activations of mixes, see `Repair`.
        """
        names = {name for mix in mixes for name in mix}
        models = self._on_device({name: own for name, own in models.items() if name in names})
        sums = _sums(models)
        same = _first_equal(models, sums)
        simple = [_simplified(mix, same) for mix in mixes]
        different = {frozenset(mix.items()): mix for mix in simple}
        if repaired or self._network.mixes is None:
            repair = Repair(self._network, models, self._images) if repaired else None
            scores = {key: self._alone(models, mix, repair) for key, mix in different.items()}
        else:
            finite = {name for name, total in sums.items() if isfinite(total)}
            scores = self._together(models, different, finite)

        def points() -> list[Point]:
            found = dict(zip(scores, map(tuple, read(list(scores.values()))), strict=True))
            return [found[frozenset(mix.items())] for mix in simple]

        return points

    def curves(self, models: Models, paths: Sequence[Path]) -> list[Curve]:
        """Return the curve of each path."""
        curves: dict[str, Curve] = {}
        for repaired in (False, True):
            chosen = [path for path in paths if path.repaired == repaired]
            mixes = [mix for path in chosen for mix in path.mixes()]
            points = iter(self.points(models, mixes, repaired))
            for path in chosen:
                curves[path.name] = curve(path, [next(points) for _ in path.alphas])
        return [curves[path.name] for path in paths]

    def _on_device(self, models: Models) -> Models:
        """Return the models on the device, unless they are so many that they may not fit."""
        if len(models) * self._network.layout.size > MANY:
            return models
        return {name: self._network.upload(model) for name, model in models.items()}

    def _alone(self, models: Models, mix: Mix, repair: Repair | None) -> Tensor:
        """Return the scores `(2,)` of a mix."""
        vector = self._recalibrated(_mixed(models, mix))
        vector = repair(vector, mix) if repair else vector
        return self._scorer.scores(vector)[0]

    def _together(
        self, models: Models, mixes: Mapping[Key, Mix], finite: set[str]
    ) -> dict[Key, Tensor]:
        """Return the scores `(2,)` of mixes, measured in groups.

        Mixes of diverged models are measured alone: in a group 0 times NaN would spoil the others.
        """
        grouped = [key for key, mix in mixes.items() if finite.issuperset(mix)]
        alone = mixes.keys() - set(grouped)
        scores = {key: self._alone(models, mixes[key], None) for key in alone}
        most = MAX_MIXES if self._network.device.type == "cpu" else MAX_ON_GPU
        size = max(1, min(most, MAX_NUMBERS // self._network.layout.size))
        for start in range(0, len(grouped), size):
            keys = grouped[start : start + size]
            scores |= zip(keys, self._group(models, [mixes[key] for key in keys]), strict=True)
        return scores

    def _group(self, models: Models, mixes: Sequence[Mix]) -> Tensor:
        """Return the scores `(K, 2)` of mixes."""
        if self._network.layout.buffers:  # BatchNorm's statistics are re-estimated, not mixed
            mixed = [self._recalibrated(_mixed(models, mix)) for mix in mixes]
            return self._scorer.evaluate_mixes(torch.stack(mixed), None)
        names = list(dict.fromkeys(name for mix in mixes for name in mix))
        shares = torch.tensor([[mix.get(name, 0.0) for name in names] for mix in mixes])
        return self._scorer.evaluate_mixes(torch.stack([models[name] for name in names]), shares)

    def _recalibrated(self, vector: Tensor) -> Tensor:
        return self._network.recalibrate(vector, self._images, self._batch)


def read(values: Sequence[Tensor]) -> list[Any]:
    """Return the numbers in tensors of one shape, after waiting once for the device."""
    return list(torch.stack(list(values)).tolist()) if values else []


def images_of(train: Dataset | None, test: Dataset, settings: Evaluation) -> Tensor:
    """Return training images for statistics, never test images; none without a training part."""
    return test.images[:0] if train is None else train.subset(settings.bn_examples).images


def _mixed(models: Models, mix: Mix) -> Tensor:
    """Return the mix `(F,)` of models; for a single model an exact copy."""
    first, *others = mix
    vector = models[first].clone()
    for name in others:
        vector += mix[name] * (models[name] - models[first])
    return vector


def _sums(models: Models) -> dict[str, float]:
    """Return the sum of each model's numbers, read from the device at once."""
    return dict(zip(models, read([model.sum() for model in models.values()]), strict=True))


def _first_equal(models: Models, sums: Mapping[str, float]) -> dict[str, str]:
    """Return for each name the name of the first model that is equal to its own, to the bit."""
    # Models with equal sums are nearly always equal.
    alike = [pair for pair in combinations(models, 2) if sums[pair[0]] == sums[pair[1]]]
    equal = read([(models[one] == models[two]).all() for one, two in alike])
    first = {name: name for name in models}
    for (one, two), same in zip(alike, equal, strict=True):
        if same and first[two] == two:
            first[two] = one
    return first


def _simplified(mix: Mix, same: Mapping[str, str]) -> Mix:
    """Return the mix with equal models merged: a mix of equal models is exactly that model."""
    shares: dict[str, float] = {}
    for name, share in mix.items():
        shares[same[name]] = shares.get(same[name], 0.0) + share
    return shares if len(shares) > 1 else dict.fromkeys(shares, 1.0)


def curve(path: Path, points: Sequence[Point]) -> Curve:
    """Return the curve of the points measured along a path."""
    losses, accuracies = zip(*points, strict=True)
    return Curve(path.name, path.alphas, np.array(losses), np.array(accuracies))
