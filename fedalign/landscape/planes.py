"""The plane through three models, a map of the loss around them (Garipov et al. 2018, figure 1)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from fedalign.landscape.barriers import Point
from fedalign.landscape.paths import Mix

MARGIN = 0.25  # around the triangle, relative to its width and height


@dataclass(frozen=True)
class Plane:
    """Places in the plane through three named models, as mixes of the models.

    Attributes:
        name: name of the plane.
        corners: names of the models.
        places: `(N, 2)`, coordinates in weight space (L2 distances): the corners, then a grid row
            by row. The first corner is the origin, the second lies on the x axis.
        shares: `(N, 3)`, the weights of the corners at each place; rows add up to 1.
    """

    name: str
    corners: tuple[str, str, str]
    places: np.ndarray
    shares: np.ndarray

    def mixes(self) -> list[Mix]:
        """Return the mix at each place, without models of weight 0."""
        mixes = [dict(zip(self.corners, shares, strict=True)) for shares in self.shares.tolist()]
        return [{name: share for name, share in mix.items() if share} for mix in mixes]


@dataclass(frozen=True)
class Map:
    """Measurements in a plane: loss and accuracy at each place, `(N,)`."""

    plane: Plane
    losses: np.ndarray
    accuracies: np.ndarray


def plane(
    name: str, corners: tuple[str, str, str], models: Mapping[str, Tensor], side: int
) -> Plane | None:
    """Return a grid of `side` x `side` places around three models; None if they are on one line."""
    first, second, third = (models[corner].double() for corner in corners)
    u, v = second - first, third - first
    length = float(u.norm())
    across = float(u @ v) / length if length else 0.0
    height = float((v - across / length * u).norm()) if length else 0.0
    if height <= 1e-6 * float(v.norm()) or not np.isfinite(height):
        return None
    corner_places = np.array([[0, 0], [length, 0], [across, height]])
    low, high = corner_places.min(0), corner_places.max(0)
    around = MARGIN * (high - low)
    x, y = np.meshgrid(*np.linspace(low - around, high + around, side).T)
    to_third = y.ravel() / height
    to_second = (x.ravel() - to_third * across) / length
    grid = np.stack([1 - to_second - to_third, to_second, to_third], axis=1)
    places = np.concatenate([corner_places, np.stack([x.ravel(), y.ravel()], axis=1)])
    return Plane(name, corners, places, np.concatenate([np.eye(3), grid]))


def measured(plane: Plane, points: Sequence[Point]) -> Map:
    """Return the map of a plane from the points measured at its places, in order."""
    losses, accuracies = zip(*points, strict=True)
    return Map(plane, np.array(losses), np.array(accuracies))


def rows_of(map_: Map) -> Iterator[tuple[str, str, float, float, float, float]]:
    """Yield plane, corner ("" on the grid), x, y, loss and accuracy of each place."""
    plane = map_.plane
    corners = [*plane.corners, *[""] * (len(plane.places) - 3)]
    numbers = np.column_stack([plane.places, map_.losses, map_.accuracies]).tolist()
    for corner, (x, y, loss, accuracy) in zip(corners, numbers, strict=True):
        yield plane.name, corner, x, y, loss, accuracy
