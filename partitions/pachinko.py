"""Label skew over a hierarchy of labels: Pachinko allocation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from partitions import Indices, deal
from partitions.dirichlet import Alpha, log_gamma
from partitions.labels import by_mix, members
from partitions.sizes import Floats, equal, refuse_too_many

Starts = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Pachinko:
    """Hierarchical label skew: a Dirichlet mix of coarse labels, and of the fine labels in each.

    Pachinko allocation as in Reddi et al. 2021 (arXiv 2003.00295), who split CIFAR-100 among 500
    clients with `alpha` 0.1 and `beta` 10. The coarse label of an example is its group; in
    CIFAR-100 these are the 20 superclasses. Each client draws a mix of coarse labels from
    Dirichlet(alpha) and, within each coarse label, a mix of fine labels from Dirichlet(beta). Sizes
    differ by at most one, and examples are drawn without replacement: once a fine label is used up,
    the other fine labels of its coarse label take its share, and once those are, the other coarse
    labels. All clients draw at once, see `dirichlet-balanced`.
    """

    alpha: Alpha = 0.1
    beta: Annotated[
        float,
        Field(
            gt=0,
            allow_inf_nan=False,
            description="like alpha, for the fine labels within a coarse one",
        ),
    ] = 10.0

    def split(
        self, labels: Indices, num_clients: int, rng: np.random.Generator, groups: Indices
    ) -> list[Indices]:
        """Return the indices that each client owns, ascending.

        Raises:
            InputError: There are more clients than examples.
        """
        refuse_too_many(num_clients, len(labels))
        leaf, coarse = _leaves(groups, labels)
        starts = np.flatnonzero(np.diff(coarse, prepend=-1))
        roots = log_gamma(self.alpha, (num_clients, len(starts)), rng)
        leaves = log_gamma(self.beta, (num_clients, len(coarse)), rng)

        def mix(clients: Indices, left: npt.NDArray[np.bool_]) -> Floats:
            return _mix(roots[clients], leaves[clients], starts, left)

        sizes = equal(len(labels), num_clients)
        return deal(by_mix(members(leaf), sizes, mix, rng), num_clients)


def _leaves(groups: Indices, labels: Indices) -> tuple[Indices, Indices]:
    """Return the fine label of each example `(N,)` and the coarse label of each fine one `(C,)`.

    A label that occurs with two coarse labels counts as two fine labels.
    """
    coarse, fine = (np.unique(ids, return_inverse=True)[1] for ids in (groups, labels))
    count = int(fine.max()) + 1
    pairs, leaf = np.unique(coarse * count + fine, return_inverse=True)
    return leaf, pairs // count


def _mix(roots: Floats, leaves: Floats, starts: Starts, left: npt.NDArray[np.bool_]) -> Floats:
    """Return the shares of the fine labels `(k, C)`: coarse shares times shares within each.

    Args:
        roots: logarithms of coarse weights, `(k, G)`.
        leaves: logarithms of fine weights, `(k, C)`.
        starts: index of the first fine label of each coarse one, `(G,)`.
        left: whether examples of each fine label are left, `(C,)`.
    """
    lengths = np.diff(starts, append=len(left))
    fine = _normalised(leaves, starts, left)
    coarse = _normalised(roots, np.zeros(1, np.intp), np.logical_or.reduceat(left, starts))
    return np.repeat(coarse, lengths, axis=1) * fine


def _normalised(logs: Floats, starts: Starts, left: npt.NDArray[np.bool_]) -> Floats:
    """Return exp(logs), 0 where `left` is False; rows sum to one over each coarse label."""
    lengths = np.diff(starts, append=len(left))
    logs = np.where(left, logs, -np.inf)
    highest = np.maximum.reduceat(logs, starts, axis=1)
    highest = np.where(np.isfinite(highest), highest, 0)  # a coarse label of which nothing is left
    weights = np.exp(logs - np.repeat(highest, lengths, axis=1))
    sums = np.add.reduceat(weights, starts, axis=1)
    rows: Floats = weights / np.repeat(np.where(sums > 0, sums, 1), lengths, axis=1)
    return rows
