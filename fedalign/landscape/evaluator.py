"""Loss and accuracy of mixes of models."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from fedalign.data import Dataset
from fedalign.landscape.barriers import Curve, Point
from fedalign.landscape.paths import Mix, Path
from fedalign.landscape.repair import Repair
from fedalign.network.network import Network
from fedalign.settings.sections import Evaluation

MAX_MIXES = 32  # mixes measured at once; more do not run faster
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
        self._network, self._settings = network, settings
        self._probe = test.subset(settings.examples)
        self._images = images_of(train, test, settings)

    def points(self, models: Models, mixes: Sequence[Mix], repaired: bool = False) -> list[Point]:
        """Return mean cross-entropy and accuracy of each mix; equal mixes are measured once.

        Args:
            models: the models to mix.
            mixes: the mixes to measure.
            repaired: whether to rescale the activations of mixes, see `Repair`.
        """
        same = _first_equal(models, {name for mix in mixes for name in mix})
        simple = [_simplified(mix, same) for mix in mixes]
        different = {frozenset(mix.items()): mix for mix in simple}
        if repaired or self._network.mixes is None:
            repair = Repair(self._network, models, self._images) if repaired else None
            points = {key: self._alone(models, mix, repair) for key, mix in different.items()}
        else:
            points = self._together(models, different)
        return [points[frozenset(mix.items())] for mix in simple]

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

    def _alone(self, models: Models, mix: Mix, repair: Repair | None) -> Point:
        settings, network = self._settings, self._network
        vector = _mixed(models, mix)
        vector = network.recalibrate(vector, self._images, settings.batch_size)
        vector = repair(vector, mix) if repair else vector
        return network.evaluate(vector, self._probe, settings.batch_size, settings.threads)

    def _together(self, models: Models, mixes: Mapping[Key, Mix]) -> dict[Key, Point]:
        """Return the points of mixes, measured in groups.

        Mixes of diverged models are measured alone: in a group 0 times NaN would spoil the others.
        """
        names = {name for mix in mixes.values() for name in mix}
        finite = {name for name in names if models[name].sum().isfinite()}
        grouped = [key for key, mix in mixes.items() if finite.issuperset(mix)]
        alone = mixes.keys() - set(grouped)
        points = {key: self._alone(models, mixes[key], None) for key in alone}
        size = max(1, min(MAX_MIXES, MAX_NUMBERS // self._network.layout.size))
        for start in range(0, len(grouped), size):
            keys = grouped[start : start + size]
            points |= zip(keys, self._group(models, [mixes[key] for key in keys]), strict=True)
        return points

    def _group(self, models: Models, mixes: Sequence[Mix]) -> list[Point]:
        settings, network = self._settings, self._network
        names = list(dict.fromkeys(name for mix in mixes for name in mix))
        block = torch.stack([models[name] for name in names])
        shares: Tensor | None = torch.tensor([[m.get(name, 0.0) for name in names] for m in mixes])
        if network.layout.buffers:  # BatchNorm's statistics are re-estimated, not mixed
            vectors = (_mixed(models, mix) for mix in mixes)
            mixed = [network.recalibrate(v, self._images, settings.batch_size) for v in vectors]
            block, shares = torch.stack(mixed), None
        return network.evaluate_mixes(
            block, shares, self._probe, settings.batch_size, settings.threads
        )


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


def _first_equal(models: Models, names: Container[str]) -> dict[str, str]:
    """Return for each name the name of the first model that is equal to its own, to the bit."""
    seen: dict[float, list[str]] = {}
    first: dict[str, str] = {}
    for name, model in models.items():
        if name in names:
            # Models with equal sums are nearly always equal.
            candidates = seen.setdefault(float(model.sum()), [])
            first[name] = next((n for n in candidates if torch.equal(models[n], model)), name)
            candidates.append(name)
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
