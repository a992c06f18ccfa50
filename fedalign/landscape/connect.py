"""The line between models from files, trained here or anywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path as File

import numpy as np
from flwr.app import Array, ArrayRecord
from safetensors import SafetensorError
from safetensors.numpy import load_file
from torch import Tensor

from fedalign.config import Config
from fedalign.device import torch_threads
from fedalign.errors import InputError
from fedalign.federation import Federation
from fedalign.landscape.barriers import Curve, Point, fusion_gap
from fedalign.landscape.evaluator import Evaluator
from fedalign.landscape.matcher import Matcher
from fedalign.landscape.paths import Mix, Path, grid
from fedalign.network import Network
from fedalign.rng import rng


@dataclass(frozen=True)
class Connection:
    """What lies between models.

    Attributes:
        curves: `A-B` of each pair, and `matched:A-B` where neurons were matched.
        points: loss and accuracy of each model.
        fused: those of the mean of all of them.
        gap: how much worse the mean is than they are.
        examples: how many test images all this was measured on.
    """

    curves: list[Curve]
    points: dict[str, Point]
    fused: Point
    gap: Point
    examples: int


def connect(files: Sequence[File], config: Config) -> Connection:
    """Return the curves between the models in safetensors files.

    Args:
        files: two or more; the models are called A, B, C, … in this order.
        config: its `model` is what the files are weights of, its `data` where they are tested, its
            `evaluation` how.

    Raises:
        InputError: fewer than two files, or one that does not hold such a model.
    """
    if len(files) < 2:
        raise InputError(f"connect: {len(files)} files, but a line has two ends; give two or more")
    federation, settings = Federation(config), config.evaluation
    network, letters = federation.network, [_letter(place) for place in range(len(files))]
    models = {name: read(file, network) for name, file in zip(letters, files, strict=True)}
    look = Evaluator(network, federation.test, federation.train, settings)
    with torch_threads(1):
        paths = _paths(models, federation)
        alone: list[Mix] = [{name: 1.0} for name in letters]
        mean: Mix = dict.fromkeys(letters, 1 / len(letters))
        *apart, fused = look.points(models, [*alone, mean])
        curves = look.curves(models, paths)
    points = dict(zip(letters, apart, strict=True))
    gap = fusion_gap(fused, apart, [1.0] * len(apart))
    examples = len(federation.test.subset(settings.examples))
    return Connection(curves, points, fused, gap, examples)


def read(file: File, network: Network) -> Tensor:
    """Return the model `(F,)` in a safetensors file; `InputError` if it is not the network's."""
    try:
        arrays = load_file(file)
    except FileNotFoundError:
        raise InputError(f"{file}: no such file") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file} is not a safetensors file: {error}") from None
    record = ArrayRecord({n: Array(np.asarray(a, np.float32)) for n, a in arrays.items()})
    known = {entry.name for entry in network.layout.entries} | set(network.layout.counters)
    for name in arrays:
        if name not in known:
            raise InputError(f"{file}: {name!r} is not a tensor of the model ({', '.join(known)})")
    try:
        return network.layout.to_vector(record)
    except ValueError as error:
        raise InputError(f"{file}: {error}") from None


def _paths(models: dict[str, Tensor], federation: Federation) -> list[Path]:
    """Return a path for each pair, and one after matching; matched models are added."""
    config, network = federation.config, federation.network
    settings, alphas, paths = config.evaluation, grid(config.evaluation.alphas), []
    images = federation.train.subset(settings.bn_examples).images
    matcher = Matcher(network, settings, images, rng(config.seed, "match"))
    for a, b in combinations(list(models), 2):
        paths.append(Path(f"{a}-{b}", a, b, alphas))
        if settings.match != "none":
            models[f"{b}~{a}"] = matcher.pair(models[a], models[b])
            paths.append(Path(f"matched:{a}-{b}", a, f"{b}~{a}", alphas))
    return paths


def _letter(place: int) -> str:
    """Return A to Z, then A1 to Z1 and so on."""
    return chr(ord("A") + place % 26) + (str(place // 26) if place >= 26 else "")
