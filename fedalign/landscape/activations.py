"""Matching of neurons by what they do on the same images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from fedalign.landscape.matching import Matched, best_order
from fedalign.landscape.permutations import permute_
from fedalign.models.symmetry import Group, Seen, lies_in
from fedalign.network.network import Network


def activation_matching(
    network: Network,
    groups: Sequence[Group],
    reference: Tensor,
    vector: Tensor,
    images: Tensor,
    batch_size: int = 500,
) -> Matched:
    """Return the permutation of `vector` `(F,)` whose neurons act most like those of `reference`.

    One linear assignment for each group, with the Pearson correlation of two neurons' activations
    over all images and places as similarity: Li et al. 2015 (arXiv 1511.07543), Git Re-Basin
    section 3.1 (which takes inner products), and REPAIR (Jordan et al. 2023). Neurons that never
    change correlate with nothing; groups that cannot be watched stay as they are. Heads of
    attention are as alike as the best order of what is inside makes them.

    Args:
        network: runs both models.
        groups: the model's symmetry.
        reference: stays as it is.
        vector: the model to permute.
        images: `(N, C, H, W)` uint8.
        batch_size: how many images are run at once.
    """
    index = torch.arange(len(vector), device=vector.device)
    watched = [(group, group.seen) for group in groups if group.seen]
    alike = correlations(network, [s for _, s in watched], reference, vector, images, batch_size)
    for group, seen in watched:
        found = alike[seen.module, seen.axis]
        at = torch.from_numpy(seen.at).to(found.device)
        ordered = not any(lies_in(inner, group) for inner in groups)
        order = best_order(_of_neurons(found, at) if ordered else _of_sets(found, at))
        permute_(network.layout, group, order, index)
        found[:, at.flatten()] = found[:, at[torch.from_numpy(order)].flatten()]
    reached = [alike[s.module, s.axis].diagonal()[s.at.ravel()] for _, s in watched]
    mean = float(torch.cat(reached).mean()) if reached else 0.0
    return Matched(index, 1, len(watched), mean)


def correlations(
    network: Network,
    seen: Iterable[Seen],
    first: Tensor,
    second: Tensor,
    images: Tensor,
    batch_size: int = 500,
) -> dict[tuple[str, int], Tensor]:
    """Return, by module and axis, how each feature of one model correlates with each of another.

    `(D, D)` float64, one row for a feature of the first model; 0 where one of them is constant.
    """
    places = {(s.module, s.axis) for s in seen}
    names = {module for module, _ in places}
    sums: dict[tuple[str, int], Moments] = {}
    for start in range(0, len(images), batch_size):
        batch = images[start : start + batch_size]
        one, two = (network.watch(vector, batch, names) for vector in (first, second))
        for place in places:
            pair = [_features(out[place[0]], place[1]) for out in (one, two)]
            sums.setdefault(place, Moments()).add(*pair)
    return {place: moments.correlation() for place, moments in sums.items()}


def _of_neurons(found: Tensor, at: Tensor) -> Tensor:
    """Return how alike neurons `(n, n)` are that are several features `(n, r)` each, in order."""
    return torch.stack([found[a][:, a] for a in at.T]).sum(0)


def _of_sets(found: Tensor, at: Tensor) -> Tensor:
    """Return the same where features of one neuron may be matched in any order."""
    blocks = [[found[one][:, two] for two in at] for one in at]
    best = [
        [block[torch.arange(len(block)), best_order(block)].sum() for block in row]
        for row in blocks
    ]
    return torch.stack([torch.stack(row) for row in best])


class Moments:
    """Sums over samples of which a correlation is made, in float64."""

    def __init__(self) -> None:
        self._count, self._sums = 0, [torch.zeros(())] * 5

    def add(self, x: Tensor, y: Tensor) -> None:
        """Take in samples of two models, `(D, S)` each."""
        self._count += x.shape[1]
        news = [x.sum(1), y.sum(1), x.square().sum(1), y.square().sum(1), x @ y.T]
        self._sums = [old.to(new) + new for old, new in zip(self._sums, news, strict=True)]

    def correlation(self) -> Tensor:
        """Return Pearson's correlation of every pair, `(D, D)`."""
        x, y, xx, yy, xy = (total / self._count for total in self._sums)
        variances = torch.outer(_positive(xx - x.square(), xx), _positive(yy - y.square(), yy))
        return torch.where(variances > 0, (xy - torch.outer(x, y)) / variances.sqrt(), 0.0)


def _positive(variance: Tensor, square: Tensor) -> Tensor:
    """Return variances, 0 where they are but the rounding of a mean square."""
    return torch.where(variance > 1e-12 * square, variance, 0.0)


def _features(out: Tensor, axis: int) -> Tensor:
    """Return `(D, S)`, all other axes of an output as samples."""
    return out.movedim(axis, 0).flatten(1).double()
