"""The models between a round's models that are measured: linear mixes on paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import comb

import numpy as np
from torch import Tensor

from fedalign.network.layout import Layout
from fedalign.rng import rng

Mix = Mapping[str, float]
"""The weight of each named model; weights add up to 1."""


@dataclass(frozen=True)
class Path:
    """A straight line from one named model to another.

    Attributes:
        name: name of the curve measured on it.
        start: name of the model at 0.
        end: name of the model at 1.
        alphas: `(A,)`, ascending; values above 1 are extrapolation.
        repaired: whether activations of the mixes are rescaled, see `fedalign.landscape.repair`.
    """

    name: str
    start: str
    end: str
    alphas: np.ndarray
    repaired: bool = False

    def mixes(self) -> list[Mix]:
        """Return the mix at each alpha; the mixes at 0 and 1 hold one model only."""
        at = {0.0: {self.start: 1.0}, 1.0: {self.end: 1.0}}
        return [
            at.get(alpha, {self.start: 1 - alpha, self.end: alpha})
            for alpha in self.alphas.tolist()
        ]


def grid(points: int, last: float = 1.0) -> np.ndarray:
    """Return `points` alphas from 0 to 1, and further ones at the same distance up to `last`.

    >>> grid(3, last=1.5).tolist()
    [0.0, 0.5, 1.0, 1.5]
    """
    inside = np.linspace(0, 1, points)
    beyond = int((last - 1) * (points - 1) + 1e-9)
    return np.concatenate([inside, 1 + np.arange(1, beyond + 1) / (points - 1)])


def repaired(paths: Sequence[Path]) -> list[Path]:
    """Return copies of the paths on which activations are rescaled.

    Their names begin with `repaired:`, or with `matched_repaired:` instead of `matched:`.
    """
    copies = []
    for path in paths:
        kind, _, ends = path.name.rpartition(":")
        kind = "matched_repaired" if kind == "matched" else "repaired"
        copies.append(replace(path, name=f"{kind}:{ends}", repaired=True))
    return copies


def pairs(partitions: Sequence[int], count: int, seed: int, number: int) -> list[tuple[int, int]]:
    """Return `count` random pairs of a round's clients, sorted, or all if there are fewer.

    Args:
        partitions: the clients.
        count: number of pairs.
        seed: the run's.
        number: of the round.
    """
    stream = rng(seed, "pairs", number)
    chosen: set[tuple[int, int]] = set()
    while len(chosen) < min(count, comb(len(partitions), 2)):
        first, second = sorted(_draw(partitions, 2, stream))
        chosen.add((first, second))
    return sorted(chosen)


def some(
    partitions: Sequence[int], count: int, seed: int, stream: str, number: int
) -> tuple[int, ...]:
    """Return `count` random clients of a round, sorted, or all if there are fewer.

    Args:
        partitions: the clients.
        count: number of clients.
        seed: the run's.
        stream: name of the random stream.
        number: of the round.
    """
    count = min(count, len(partitions))
    return tuple(sorted(_draw(partitions, count, rng(seed, stream, number))))


def _draw(partitions: Sequence[int], count: int, stream: np.random.Generator) -> list[int]:
    """Return `count` clients; no array of them is made, since it would round 64-bit node ids."""
    return [partitions[i] for i in stream.choice(len(partitions), count, replace=False)]


def simplex(models: int, count: int, seed: int, number: int) -> np.ndarray:
    """Return random weights of `count` convex mixes, `(count, models)`, uniform on the simplex."""
    return rng(seed, "mixes", number).dirichlet(np.ones(models), count)


def hybrids(layout: Layout, start: Tensor, end: Tensor) -> dict[str, Tensor]:
    """Return for each layer, by name, the model `start` `(F,)` with that layer from `end`.

    It is the far end of a layer-wise path (Adilova et al. 2024). A layer is a weight with its bias
    and norm terms.
    """
    models = {}
    for layer in layout.layers:
        model = start.clone()
        for entry in layer:
            model[entry.start : entry.stop] = end[entry.start : entry.stop]
        models[layer[0].name.rpartition(".")[0] or layer[0].name] = model
    return models
