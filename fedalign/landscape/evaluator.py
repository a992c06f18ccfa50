"""Loss and accuracy of the models between models."""

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

MOST = 32  # mixes measured at once; more do not run faster,
MOST_NUMBERS = 1 << 26  # nor fit

Key = frozenset[tuple[str, float]]
Models = Mapping[str, Tensor]
"""Models `(F,)` by name."""


class Evaluator:
    """Measures mixes of named models on a fixed subset of the test set.

    BatchNorm statistics are re-estimated on every mix, the models themselves included, so that a
    barrier compares like with like. Where a network can, many mixes are measured at once.

    Args:
        network: what the models are weights of.
        test: its first `settings.examples` are the subset.
        train: its first `settings.bn_examples` serve to re-estimate statistics; None: nothing does.
        settings: how much of it, and how.
    """

    def __init__(
        self, network: Network, test: Dataset, train: Dataset | None, settings: Evaluation
    ):
        self._network, self._settings = network, settings
        self._probe = test.subset(settings.examples)
        self._images = images_of(train, test, settings)

    def points(self, models: Models, mixes: Sequence[Mix], repaired: bool = False) -> list[Point]:
        """Return each mix's mean cross-entropy and accuracy; equal mixes are measured once.

        Args:
            models: what is mixed.
            mixes: what to measure.
            repaired: rescale the activations of mixes, see `Repair`.
        """
        same = _first_equal(models, {name for mix in mixes for name in mix})
        simple = [_simplified(mix, same) for mix in mixes]
        asked = {frozenset(mix.items()): mix for mix in simple}
        if repaired or self._network.mixes is None:
            repair = Repair(self._network, models, self._images) if repaired else None
            found = {key: self._alone(models, mix, repair) for key, mix in asked.items()}
        else:
            found = self._together(models, asked)
        return [found[frozenset(mix.items())] for mix in simple]

    def curves(self, models: Models, paths: Sequence[Path]) -> list[Curve]:
        """Return the curve of each path."""
        curves: dict[str, Curve] = {}
        for repaired in (False, True):
            own = [path for path in paths if path.repaired == repaired]
            mixes = [mix for path in own for mix in path.mixes()]
            points = iter(self.points(models, mixes, repaired))
            curves |= {path.name: curve(path, [next(points) for _ in path.alphas]) for path in own}
        return [curves[path.name] for path in paths]

    def _alone(self, models: Models, mix: Mix, repair: Repair | None) -> Point:
        settings, network = self._settings, self._network
        vector = _mixed(models, mix)
        vector = network.recalibrate(vector, self._images, settings.batch_size)
        vector = repair(vector, mix) if repair else vector
        return network.evaluate(vector, self._probe, settings.batch_size, settings.threads)

    def _together(self, models: Models, asked: Mapping[Key, Mix]) -> dict[Key, Point]:
        """Return the points of mixes, in groups; what has diverged, alone: 0 times NaN is NaN."""
        names = {name for mix in asked.values() for name in mix}
        finite = {name for name in names if models[name].sum().isfinite()}
        groups = [key for key, mix in asked.items() if finite.issuperset(mix)]
        found = {key: self._alone(models, asked[key], None) for key in asked.keys() - set(groups)}
        most = max(1, min(MOST, MOST_NUMBERS // self._network.layout.size))
        for start in range(0, len(groups), most):
            keys = groups[start : start + most]
            found |= zip(keys, self._group(models, [asked[key] for key in keys]), strict=True)
        return found

    def _group(self, models: Models, mixes: Sequence[Mix]) -> list[Point]:
        settings, network = self._settings, self._network
        names = list(dict.fromkeys(name for mix in mixes for name in mix))
        block = torch.stack([models[name] for name in names])
        shares: Tensor | None = torch.tensor([[m.get(name, 0.0) for name in names] for m in mixes])
        if network.layout.buffers:  # BatchNorm's statistics are no mixes
            vectors = (_mixed(models, mix) for mix in mixes)
            fresh = [network.recalibrate(v, self._images, settings.batch_size) for v in vectors]
            block, shares = torch.stack(fresh), None
        return network.evaluate_mixes(
            block, shares, self._probe, settings.batch_size, settings.threads
        )


def images_of(train: Dataset | None, test: Dataset, settings: Evaluation) -> Tensor:
    """Return the images that tell of statistics: none of the test set, so there may be none."""
    return test.images[:0] if train is None else train.subset(settings.bn_examples).images


def _mixed(models: Models, mix: Mix) -> Tensor:
    """Return a mix `(F,)` of models; of one alone a copy, to the bit."""
    first, *others = mix
    vector = models[first].clone()
    for name in others:
        vector += mix[name] * (models[name] - models[first])
    return vector


def _first_equal(models: Models, names: Container[str]) -> dict[str, str]:
    """Return for each name the first of the models that is equal to its own, to the bit."""
    seen: dict[float, list[str]] = {}
    first: dict[str, str] = {}
    for name, model in models.items():
        if name in names:
            alike = seen.setdefault(float(model.sum()), [])  # few have the same sum and are not
            first[name] = next((one for one in alike if torch.equal(models[one], model)), name)
            alike.append(name)
    return first


def _simplified(mix: Mix, same: Mapping[str, str]) -> Mix:
    """Return the mix without equal models in it: a mix of equal models is that model, exactly."""
    shares: dict[str, float] = {}
    for name, share in mix.items():
        shares[same[name]] = shares.get(same[name], 0.0) + share
    return shares if len(shares) > 1 else dict.fromkeys(shares, 1.0)


def curve(path: Path, points: Sequence[Point]) -> Curve:
    """Return the curve of the points measured along a path."""
    losses, accuracies = zip(*points, strict=True)
    return Curve(path.name, path.alphas, np.array(losses), np.array(accuracies))
