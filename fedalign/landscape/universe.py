"""Permutations that match many models to one another, without a reference model."""

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
        models: permutation of each model; its similarity is to the sum of the others there.
        iterations: passes over all models, including the last, in which nothing improved.
        similarity: sum of the inner products of all pairs.
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

    The permutations are cycle consistent: mapping a model to a third through a second is the same
    as directly. In random order, each model is matched to the sum of the others (MergeMany of Git
    Re-Basin, appendix A.10), until the sum of all pairwise inner products stops improving; this sum
    is the objective of C2M3 (Crisostomi et al. 2024, arXiv 2405.17897). The space is determined up
    to one permutation of all models. `start: layers` first matches all models to the first one, if
    that is better than their original order.
    """
    searches = [Search(layout, groups, models[0], model) for model in models]
    if start == "layers":
        matched = to_reference(layout, groups, models[0], models, rng)
        aligned = [model[to.index] for model, to in zip(models, matched, strict=True)]
        if _together(layout, aligned) > _together(layout, models):
            for search, to in zip(searches, matched, strict=True):
                search.adopt(to)
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
    stack = torch.stack(list(models))[:, : layout.parameter_size].double()
    return float(stack.sum(0).square().sum() - stack.square().sum()) / 2
