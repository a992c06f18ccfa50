"""Which models between a round's models are looked at: all of them are linear mixes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import comb

import numpy as np
from torch import Tensor

from fedalign.network.layout import Layout
from fedalign.rng import rng

Mix = Mapping[str, float]
"""The weight of each named model; they add up to 1."""


@dataclass(frozen=True)
class Path:
    """A straight line from one named model to another.

    Attributes:
        name: of the curve that is measured on it.
        start: name of the model at 0.
        end: name of the model at 1.
        alphas: `(A,)`, ascending; what lies beyond 1 is extrapolation.
        repaired: activations of what lies between are rescaled, see `fedalign.landscape.repair`.
    """

    name: str
    start: str
    end: str
    alphas: np.ndarray
    repaired: bool = False

    def mixes(self) -> list[Mix]:
        """Return what stands at each alpha; the ends are their models and nothing else."""
        at = {0.0: {self.start: 1.0}, 1.0: {self.end: 1.0}}
        return [
            at.get(alpha, {self.start: 1 - alpha, self.end: alpha})
            for alpha in self.alphas.tolist()
        ]


def grid(points: int, last: float = 1.0) -> np.ndarray:
    """Return `points` places from 0 to 1, and more at the same distance as far as `last`."""
    inside = np.linspace(0, 1, points)
    beyond = int((last - 1) * (points - 1) + 1e-9)
    return np.concatenate([inside, 1 + np.arange(1, beyond + 1) / (points - 1)])


def repaired(paths: Sequence[Path]) -> list[Path]:
    """Return the paths once more, with activations rescaled; of matched ones the name says both."""
    found = []
    for path in paths:
        kind, _, whose = path.name.rpartition(":")
        told = "matched_repaired" if kind == "matched" else "repaired"
        found.append(replace(path, name=f"{told}:{whose}", repaired=True))
    return found


def pairs(partitions: Sequence[int], count: int, seed: int, number: int) -> list[tuple[int, int]]:
    """Return so many pairs of clients of a round, or all there are."""
    stream = rng(seed, "pairs", number)
    chosen: set[tuple[int, int]] = set()
    while len(chosen) < min(count, comb(len(partitions), 2)):
        first, second = sorted(int(i) for i in stream.choice(partitions, 2, replace=False))
        chosen.add((first, second))
    return sorted(chosen)


def some(
    partitions: Sequence[int], count: int, seed: int, stream: str, number: int
) -> tuple[int, ...]:
    """Return so many clients of a round, or all there are."""
    count = min(count, len(partitions))
    drawn = rng(seed, stream, number).choice(partitions, count, replace=False)
    return tuple(sorted(int(i) for i in drawn))


def simplex(models: int, count: int, seed: int, number: int) -> np.ndarray:
    """Return random weights of convex mixes, `(count, models)`, evenly spread: Dirichlet(1)."""
    return rng(seed, "mixes", number).dirichlet(np.ones(models), count)


def hybrids(layout: Layout, start: Tensor, end: Tensor) -> dict[str, Tensor]:
    """Return, by layer, the model `start` `(F,)` with that layer of `end`.

    The far end of a layer-wise path (Adilova et al. 2024): a layer is a weight with its bias and
    norm terms.
    """
    found = {}
    for layer in layout.layers:
        model = start.clone()
        for entry in layer:
            model[entry.start : entry.stop] = end[entry.start : entry.stop]
        found[layer[0].name.rpartition(".")[0] or layer[0].name] = model
    return found
