"""The line between models from files, trained here or anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path as File

from torch import Tensor

from fedalign.data import Dataset
from fedalign.errors import InputError
from fedalign.federation.federation import Federation
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

ALPHAS = 25  # points on a line where the configuration, a run's that measured none, says 0
EXAMPLES = 2000  # test images, of which a run that measures every round takes fewer
ASKED = {"model": "what the files are weights of", "data": "where they are tested"}


@dataclass(frozen=True)
class Connection:
    """What lies between models.

    Attributes:
        files: what each model was read from, by its letter.
        points: loss and accuracy of each model.
        means: those of the mean of all of them: `mean`, and `matched mean` where neurons were.
        curves: `A-B` of each pair, `matched:A-B` where neurons were matched, and both once more
            where activations were rescaled: `repaired:A-B`, `matched_repaired:A-B`.
        maps: of the plane through the first three, where it was asked for.
        examples: how many test images all this was measured on.
    """

    files: dict[str, File]
    points: dict[str, Point]
    means: dict[str, Point]
    curves: list[Curve]
    maps: list[Map]
    examples: int

    def gap(self, mean: str) -> Point:
        """Return how much worse this mean of the models is than they are."""
        return fusion_gap(self.means[mean], list(self.points.values()), [1.0] * len(self.points))


def how(
    files: Sequence[File], words: Sequence[str], config: str | None, given: Mapping[str, str | None]
) -> Config:
    """Return how models are connected, told on a command line.

    Args:
        files: beside the first may lie the `config.yaml` of its run.
        words: `KEY=VALUE`.
        config: a YAML file; without it the one beside is taken, if it is needed.
        given: names of `model` and `data`, or None.

    Raises:
        InputError: nobody says what the files are weights of, or where they are tested.
    """
    told = {key: value for key, value in given.items() if value is not None}
    told |= parse_overrides(words)
    beside = files[0].parent / "config.yaml" if files else File()
    missing = [key for key in given if key not in told and f"{key}.name" not in told]
    if missing and config is None and beside.is_file():
        config = str(beside)
    if missing and config is None:
        known = names(KINDS[missing[0]])
        raise InputError(
            f"--{missing[0]}: must be given, {ASKED[missing[0]]} "
            f"({', '.join(known)}, or package.module:Name), or --config, "
            "as no config.yaml lies beside the first file"
        )
    usual = {"evaluation.match": "weights", "evaluation.examples": EXAMPLES}
    return read_config(config, usual | told)


def connect(files: Sequence[File], config: Config) -> Connection:
    """Return the curves between the models in safetensors files.

    Neurons are not matched where it is not known which of them can be exchanged.

    Args:
        files: two or more; the models are called A, B, C, … in this order.
        config: its `model` is what the files are weights of, its `data` where they are tested, its
            `evaluation` how.

    Raises:
        InputError: fewer than two files, or one that does not hold such a model; or no test part.
    """
    if len(files) < 2:
        told = f"{len(files)} safetensors file{'s' * (len(files) != 1)}"
        raise InputError(f"connect: {told}, but a line has two ends; give two or more")
    federation, settings = Federation(config), config.evaluation
    if (test := federation.test) is None:
        raise InputError(f"connect: data set {config.data.name!r} has no test part to measure on")
    named = {_letter(place): file for place, file in enumerate(files)}
    models = {name: read(file, federation.network) for name, file in named.items()}
    look = Evaluator(federation.network, test, federation.reference, settings)
    with torch_threads(1):
        paths, means = _paths_and_means(models, federation, test)
        planes = _planes(models, list(named), settings.plane)
        asked: list[Mix] = [{name: 1.0} for name in named]
        asked += [*means.values(), *(mix for own in planes for mix in own.mixes())]
        points = iter(look.points(models, asked))
        curves = look.curves(models, paths)
    return Connection(
        files=named,
        points={name: next(points) for name in named},
        means={name: next(points) for name in means},
        curves=curves,
        maps=[measured(own, [next(points) for _ in own.places]) for own in planes],
        examples=len(test.subset(settings.examples)),
    )


def _paths_and_means(
    models: dict[str, Tensor], federation: Federation, test: Dataset
) -> tuple[list[Path], dict[str, Mix]]:
    """Return a path for each pair and the mean, and both after matching; adds matched models."""
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
    found = plane(f"plane:{first}-{second}-{third}", (first, second, third), models, side)
    return [] if found is None else [found]


def _matcher(federation: Federation, test: Dataset) -> Matcher | None:
    config, network = federation.config, federation.network
    if config.evaluation.match == "none" or not network.symmetry:
        return None
    images = images_of(federation.reference, test, config.evaluation)
    return Matcher(network, config.evaluation, images, rng(config.seed, "match"))


def _mean(names: Sequence[str]) -> Mix:
    return dict.fromkeys(names, 1 / len(names))


def _letter(place: int) -> str:
    """Return A to Z, then A1 to Z1 and so on."""
    return chr(ord("A") + place % 26) + (str(place // 26) if place >= 26 else "")
