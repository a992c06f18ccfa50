"""Permutations that bring many models together, none of them being the reference."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fedalign.landscape.matching import Matched, Search, Start, to_reference
from fedalign.models.symmetry import Group
from fedalign.network.layout import Layout


@dataclass(frozen=True)
class Universe:
    """Permutations of many models into one shared space.

    Attributes:
        models: of each model; its similarity is to the sum of the others in that space.
        iterations: passes over all models, with the last one, in which nothing improved.
        similarity: the sum of the inner products of all pairs.
    """

    models: tuple[Matched, ...]
    iterations: int
    similarity: float


def universe(
    layout: Layout,
    groups: Sequence[Group],
    models: Sequence[Tensor],
    rng: np.random.Generator,
    start: Start = "layers",
) -> Universe:
    """Return a permutation of each model `(F,)` into a space that all of them share.

    Going from one model to a third by way of a second is then the same as going straight. Each
    model in turn, in random order, is matched to the sum of the others (MergeMany of Git Re-Basin,
    appendix A.10), until nothing improves the sum of all pairwise inner products, which is the
    objective of C2M3 (Crisostomi et al. 2024, arXiv 2405.17897). The space is known up to a
    permutation of everything. `start: layers` begins with all models matched to the first, where
    that is better than as they are.
    """
    searches = [Search(layout, groups, models[0], model) for model in models]
    if start == "layers":
        found = to_reference(layout, groups, models[0], models, rng)
        aligned = [model[one.index] for model, one in zip(models, found, strict=True)]
        if _together(layout, aligned) > _together(layout, models):
            for search, one in zip(searches, found, strict=True):
                search.adopt(one)
    passes, improved = 0, True
    while improved:
        improved, passes = False, passes + 1
        total = torch.stack([search.vector for search in searches]).sum(0)
        for search in (searches[number] for number in rng.permutation(len(searches))):
            total -= search.vector
            search.aim(total)
            while search.sweep(rng.permutation(len(groups))):
                improved = True
            total += search.vector
    vectors = [search.vector for search in searches]
    return Universe(tuple(s.result() for s in searches), passes, _together(layout, vectors))


def _together(layout: Layout, models: Iterable[Tensor]) -> float:
    """Return the sum of the inner products of all pairs of models."""
    stack = torch.stack(list(models))[:, : layout.num_parameters].double()
    return float(stack.sum(0).square().sum() - stack.square().sum()) / 2
