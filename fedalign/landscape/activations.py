"""Activation matching: pair neurons that respond alike to the same images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from fedalign.landscape.matching import Matched, best_order
from fedalign.models.symmetry import Group, Seen, lies_in
from fedalign.network.network import Network
from fedalign.network.permutations import permute_


def activation_matching(
    network: Network,
    groups: Sequence[Group],
    reference: Tensor,
    vector: Tensor,
    images: Tensor,
    batch_size: int = 500,
) -> Matched:
    """Return the permutation of `vector` `(F,)` whose neurons act most like those of `reference`.

    Each group is a linear assignment problem; the similarity of two neurons is the Pearson
    correlation of their activations over all images and positions, as in Li et al. 2015 (arXiv
    1511.07543), Git Re-Basin section 3.1 (which uses inner products), and REPAIR (Jordan et al.
    2023). Neurons with constant activations correlate with none; groups that cannot be observed
    stay as they are. The similarity of two attention heads is that of the best pairing of the
    neurons inside.

    Args:
        network: runs both models.
        groups: the model's symmetry.
        reference: the model whose order is kept, `(F,)`.
        vector: the model to permute.
        images: `(N, C, H, W)` uint8.
        batch_size: number of images per forward pass.
    """
    index = torch.arange(len(vector), device=vector.device)
    watched = [(group, group.seen) for group in groups if group.seen]
    by_place = correlations(network, [s for _, s in watched], reference, vector, images, batch_size)
    for group, seen in watched:
        features = by_place[seen.module, seen.axis]
        at = torch.from_numpy(seen.at).to(features.device)
        ordered = not any(lies_in(inner, group) for inner in groups)
        order = best_order(_of_neurons(features, at) if ordered else _of_sets(features, at))
        permute_(network.layout, group, order, index)
        features[:, at.flatten()] = features[:, at[torch.from_numpy(order)].flatten()]
    reached = [by_place[s.module, s.axis].diagonal()[s.at.ravel()] for _, s in watched]
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
    """Return the correlations of all features of two models, by module and axis.

    Each is `(D, D)` float64 with one row per feature of the first model; 0 where either is
    constant.
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


def _of_neurons(features: Tensor, at: Tensor) -> Tensor:
    """Return the similarities of neurons `(n, n)` that have features `at` `(n, r)`, in order."""
    return torch.stack([features[a][:, a] for a in at.T]).sum(0)


def _of_sets(features: Tensor, at: Tensor) -> Tensor:
    """Return the similarities of neurons whose features may be paired in any order."""
    blocks = [[features[one][:, two] for two in at] for one in at]
    best = [
        [block[torch.arange(len(block)), best_order(block)].sum() for block in row]
        for row in blocks
    ]
    return torch.stack([torch.stack(row) for row in best])


class Moments:
    """Sums over samples, in float64, from which correlations are computed."""

    def __init__(self) -> None:
        self._count, self._sums = 0, [torch.zeros(())] * 5

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add samples of two models, `(D, S)` each."""
        self._count += x.shape[1]
        news = [x.sum(1), y.sum(1), x.square().sum(1), y.square().sum(1), x @ y.T]
        self._sums = [old.to(new) + new for old, new in zip(self._sums, news, strict=True)]

    def correlation(self) -> Tensor:
        """Return the Pearson correlation of every pair of features, `(D, D)`."""
        x, y, xx, yy, xy = (total / self._count for total in self._sums)
        variances = torch.outer(_positive(xx - x.square(), xx), _positive(yy - y.square(), yy))
        return torch.where(variances > 0, (xy - torch.outer(x, y)) / variances.sqrt(), 0.0)


def _positive(variance: Tensor, square: Tensor) -> Tensor:
    """Return variances, set to 0 where they are only rounding errors of the mean square."""
    return torch.where(variance > 1e-12 * square, variance, 0.0)


def _features(out: Tensor, axis: int) -> Tensor:
    """Return an output as `(D, S)` float64; all axes but `axis` become samples."""
    return out.movedim(axis, 0).flatten(1).double()
