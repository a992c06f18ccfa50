"""The lines between models from files, wherever they were trained."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path as File

from torch import Tensor

from fedalign.data import Dataset
from fedalign.errors import InputError
from fedalign.federation.federation import Federation
from fedalign.federation.untrained import check_trained
from fedalign.landscape.barriers import Curve, Point, fusion_gap
from fedalign.landscape.evaluator import Evaluator, images_of
from fedalign.landscape.files import read
from fedalign.landscape.matcher import Matcher
from fedalign.landscape.paths import Mix, Path, grid, repaired
from fedalign.landscape.planes import Map, Plane, measured, plane
from fedalign.network.device import torch_threads
from fedalign.rng import rng
from fedalign.settings.builtin import KINDS
from fedalign.settings.config import Config
from fedalign.settings.config import read as read_config
from fedalign.settings.registry import names
from fedalign.settings.sources import parse_overrides

ALPHAS = 25  # points on a line if the configuration says 0, as after a run without measurements
ABOVE = 3  # folders: that of a file, such as models/round-5, and those above it
EXAMPLES = 2000  # test images by default; runs use fewer, because they measure every round
log = logging.getLogger("fedalign")
MEANING = {"model": "the network of the files", "data": "the data set to test on"}


@dataclass(frozen=True)
class Connection:
    """Measurements of and between several models.

    Attributes:
        files: the file of each model, by its letter.
        points: loss and accuracy of each model.
        means: loss and accuracy of the `mean` of all models, and of the `matched mean` if neurons
            were matched.
        curves: `A-B` for each pair; `matched:A-B` if neurons were matched; and both again as
            `repaired:A-B` and `matched_repaired:A-B` if activations were rescaled.
        maps: of the plane through the first three models, if requested.
        examples: number of test images of all measurements.
    """

    files: dict[str, File]
    points: dict[str, Point]
    means: dict[str, Point]
    curves: list[Curve]
    maps: list[Map]
    examples: int

    def gap(self, mean: str) -> Point:
        """Return how much worse this mean of the models is than the models; see `fusion_gap`."""
        return fusion_gap(self.means[mean], list(self.points.values()), [1.0] * len(self.points))


def how(
    files: Sequence[File], words: Sequence[str], config: str | None, given: Mapping[str, str | None]
) -> Config:
    """Return the configuration of `connect` from the arguments of a command line.

    Args:
        files: the models; the folder of the first, or one above it, may be that of its run.
        words: overrides `KEY=VALUE`.
        config: a YAML file; if it is None and `model` or `data` is missing, the `config.yaml` of
            the run that the first file lies in is read.
        given: names of `model` and `data`, or None.

    Raises:
        InputError: `model` or `data` is not given anywhere.
    """
    overrides = {key: value for key, value in given.items() if value is not None}
    overrides |= parse_overrides(words)
    found = config_of(files[0]) if files else None
    missing = [key for key in given if key not in overrides and f"{key}.name" not in overrides]
    if missing and config is None and found:
        config = str(found)
    if missing and config is None:
        known = names(KINDS[missing[0]])
        raise InputError(
            f"--{missing[0]}: must be given, {MEANING[missing[0]]} "
            f"({', '.join(known)}, or package.module:Name), or --config, "
            "because there is no config.yaml next to the first file or above it"
        )
    defaults = {"evaluation.match": "weights", "evaluation.examples": EXAMPLES}
    return read_config(config, defaults | overrides)


def config_of(file: File) -> File | None:
    """Return the configuration of the run that a model lies in; None if it lies in none."""
    above = (folder / "config.yaml" for folder in [*file.absolute().parents][:ABOVE])
    return next((path for path in above if path.is_file()), None)


def connect(files: Sequence[File], config: Config) -> Connection:
    """Return measurements of and between the models in safetensors files.

    Neurons are not matched if the model's exchangeable neurons are unknown.

    Args:
        files: two or more; their models are named A, B, C, … in this order.
        config: `model` is the network of the files, `data` the data set to test on, `evaluation`
            the settings of the measurements.

    Raises:
        InputError: There are fewer than two files, one does not hold such a model, or the data set
            has no test part.
    """
    if len(files) < 2:
        count = f"{len(files)} safetensors file{'s' * (len(files) != 1)}"
        raise InputError(f"connect: {count}, but a line has two ends; give two or more")
    federation, settings = Federation(config), config.evaluation
    if (test := federation.test) is None:
        raise InputError(f"connect: data set {config.data.name!r} has no test part to measure on")
    named = {letter(number): file for number, file in enumerate(files)}
    models = {name: read(file, federation.network) for name, file in named.items()}
    for name, model in models.items():
        check_trained(federation, model, named[name])
    evaluator = Evaluator(federation.network, test, federation.reference, settings)
    with torch_threads(1):
        paths, means = _paths_and_means(models, federation, test)
        planes = _planes(models, list(named), settings.plane)
        mixes: list[Mix] = [{name: 1.0} for name in named]
        mixes += [*means.values(), *(mix for plane in planes for mix in plane.mixes())]
        points = iter(evaluator.points(models, mixes))
        curves = evaluator.curves(models, paths)
    return Connection(
        files=named,
        points={name: next(points) for name in named},
        means={name: next(points) for name in means},
        curves=curves,
        maps=[measured(plane, [next(points) for _ in plane.places]) for plane in planes],
        examples=len(test.subset(settings.examples)),
    )


def _paths_and_means(
    models: dict[str, Tensor], federation: Federation, test: Dataset
) -> tuple[list[Path], dict[str, Mix]]:
    """Return a path for each pair and the mean, also after matching; adds the matched models."""
    letters, alphas = list(models), grid(federation.config.evaluation.alphas or ALPHAS)
    paths, means = [], {"mean": _mean(letters)}
    matcher = _matcher(federation, test)
    for a, b in combinations(letters, 2):
        paths.append(Path(f"{a}-{b}", a, b, alphas))
        if matcher:
            models[f"{b}~{a}"] = matcher.pair(models[a], models[b])
            paths.append(Path(f"matched:{a}-{b}", a, f"{b}~{a}", alphas))
    if federation.config.evaluation.repair:
        paths += repaired(paths)
    if matcher:
        together = matcher.together([models[letter] for letter in letters])
        models |= {f"{a}~": model for a, model in zip(letters, together, strict=True)}
        means["matched mean"] = _mean([f"{a}~" for a in letters])
    return paths, means


def _planes(models: Mapping[str, Tensor], letters: Sequence[str], side: int) -> list[Plane]:
    if not side or len(letters) < 3:
        return []
    first, second, third = letters[:3]
    spanned = plane(f"plane:{first}-{second}-{third}", (first, second, third), models, side)
    return [] if spanned is None else [spanned]


def _matcher(federation: Federation, test: Dataset) -> Matcher | None:
    config, network = federation.config, federation.network
    if config.evaluation.match == "none":
        return None
    if not network.symmetry:
        log.warning("neurons are not matched: %s", network.exchangeable.reason)
        return None
    images = images_of(federation.reference, test, config.evaluation)
    return Matcher(network, config.evaluation, images, rng(config.seed, "match"))


def _mean(names: Sequence[str]) -> Mix:
    return dict.fromkeys(names, 1 / len(names))


def letter(number: int) -> str:
    """Return A to Z, then A1 to Z1 and so on."""
    return chr(ord("A") + number % 26) + (str(number // 26) if number >= 26 else "")
