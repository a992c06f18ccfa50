"""Permutations of a model's neurons, applied to its flat vector.

A permutation of a whole model is an index `(F,)`, which these functions make from
`torch.arange(F)`; the permuted model is `vector[index]`. The composition of two is
`first[second]`, the inverse of one `torch.argsort(index)`.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

from fedalign.models.symmetry import Group
from fedalign.network.layout import Layout


def permute(layout: Layout, group: Group, order: np.ndarray, vector: Tensor) -> Tensor:
    """Return a model whose neuron i is neuron `order[i]` of `vector`, wherever the group lies.

    Args:
        layout: of the model.
        group: one of its groups of exchangeable neurons.
        order: `(n,)`, a permutation of 0..n-1.
        vector: `(F,)`, of any dtype.
    """
    vector = vector.clone()
    permute_(layout, group, order, vector)
    return vector


def permute_(layout: Layout, group: Group, order: np.ndarray, vector: Tensor) -> None:
    """Permute a model in place, like `permute`."""
    entries = {entry.name: entry for entry in layout.entries}
    for place in group.places:
        tensor = entries[place.tensor].view(vector)
        at, taken = (torch.from_numpy(a.ravel()) for a in (place.at, place.at[order]))
        at, taken = at.to(vector.device), taken.to(vector.device)
        tensor.index_copy_(place.axis, at, tensor.index_select(place.axis, taken))


def shuffled(
    layout: Layout, groups: Iterable[Group], rng: np.random.Generator, vector: Tensor
) -> Tensor:
    """Return a copy of a model `(F,)` with the neurons of every group in random order.

    It computes the same function, up to rounding, because sums have another order.
    """
    vector = vector.clone()
    for group in groups:
        permute_(layout, group, rng.permutation(group.size), vector)
    return vector
