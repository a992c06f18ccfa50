"""Find the permutation of a model's neurons that brings its weights closest to another model's.

Weight matching of Git Re-Basin (Ainsworth et al. 2023, arXiv 2209.04836, section 3.2). Only
parameters are compared; BatchNorm's statistics move with their neurons.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fedalign.models.symmetry import Group, lies_in
from fedalign.network.layout import Layout
from fedalign.network.permutations import permute_

LEAST = 1e-12  # smallest gain, relative to the product of norms, that is not rounding

Start = Literal["layers", "identity"]


@dataclass(frozen=True)
class Matched:
    """A permutation of a model, and the cost of finding it.

    Attributes:
        index: `(F,)` int64; `vector[index]` is the model in its new order.
        iterations: passes over all groups, including the last, in which nothing improved.
        assignments: number of linear assignment problems solved.
        similarity: the objective: the inner product of the parameters or, for activations, the mean
            correlation of a neuron with its match.
    """

    index: Tensor
    iterations: int
    assignments: int
    similarity: float


def weight_matching(
    layout: Layout,
    groups: Sequence[Group],
    reference: Tensor,
    vector: Tensor,
    rng: np.random.Generator,
    start: Start = "layers",
) -> Matched:
    """Return the permutation of `vector` `(F,)` that makes it most like `reference` `(F,)`.

    Coordinate descent: in random order, each group gets its best permutation while the others stay
    fixed, until no group improves. The inner product of the parameters is never smaller than
    without a permutation.

    Args:
        layout: layout of both models.
        groups: the model's symmetry.
        reference: the model whose order is kept.
        vector: the model to permute.
        rng: decides the order of the groups.
        start: `identity` starts like the paper. `layers` first goes through the groups from the
            input on, as FedMA does (Wang et al. 2020): it compares only weights whose other end is
            already matched, and attention heads by their contents in any order. The descent starts
            from that or from the identity, whichever is better. This recovers a permuted copy if no
            two neurons of a layer have the same inputs.
    """
    search = Search(layout, groups, reference, vector)
    if start == "layers":
        search.go_through_layers()
    while search.sweep(rng.permutation(len(groups))):
        pass
    return search.result()


def to_reference(
    layout: Layout,
    groups: Sequence[Group],
    reference: Tensor,
    models: Iterable[Tensor],
    rng: np.random.Generator,
    start: Start = "layers",
) -> list[Matched]:
    """Return the permutation of each model `(F,)` that makes it most like the reference."""
    return [weight_matching(layout, groups, reference, model, rng, start) for model in models]


def best_order(similarity: Tensor) -> np.ndarray:
    """Return the column of each row of `(n, n)` that maximises the sum, each column once.

    If a similarity is not finite, because a model has diverged, the result is the identity.

    >>> best_order(torch.tensor([[1.0, 5.0], [2.0, 3.0]])).tolist()
    [1, 0]
    """
    costs = similarity.cpu().numpy()
    if not np.isfinite(costs).all():
        return np.arange(len(costs))
    from scipy.optimize import linear_sum_assignment  # 0.4 s, and few runs match

    order: np.ndarray = linear_sum_assignment(costs, maximize=True)[1]
    return order


class Search:
    """State of a coordinate descent that matches a model to a reference.

    Attributes:
        vector: `(F,)` float64, the model in its current order.
        index: `(F,)`, the current order.
    """

    def __init__(self, layout: Layout, groups: Sequence[Group], reference: Tensor, vector: Tensor):
        self._layout, self._groups = layout, groups
        self.vector = vector.to(torch.float64, copy=True)
        self.index = torch.arange(len(vector), device=vector.device)
        self._iterations = self._assignments = 0
        self.aim(reference)

    def aim(self, reference: Tensor) -> None:
        """Change the reference `(F,)`."""
        self._reference = reference.double()
        self._targets = [_neurons(self._layout, group, self._reference) for group in self._groups]

    def adopt(self, matched: Matched) -> None:
        """Apply a permutation that was found for the current vector."""
        self.vector, self.index = self.vector[matched.index], self.index[matched.index]
        self._iterations += matched.iterations
        self._assignments += matched.assignments

    def sweep(self, numbers: Iterable[int]) -> bool:
        """Improve each of these groups once; return whether any improved."""
        self._iterations += 1
        improved = [self._improve(self._groups[i], self._targets[i]) for i in numbers]
        return any(improved)

    def go_through_layers(self) -> None:
        """Match from the input on by what is already matched; undo it unless similarity grows."""
        before = self.vector.clone(), self.index.clone(), self._similarity()
        owned = [_neurons(self._layout, group, self.index).flatten() for group in self._groups]
        waiting = torch.zeros_like(self.index)  # number of groups that have yet to move each weight
        for weights in owned:
            waiting[weights] += 1
        for group, weights in zip(self._groups, owned, strict=True):
            inside = [i for i, inner in enumerate(self._groups) if lies_in(inner, group)]
            for number in inside:  # moves within a neuron do not matter here
                waiting[owned[number]] -= 1
            self._improve(group, *self._known(group, waiting, ordered=not inside))
            for number in inside:
                waiting[owned[number]] += 1
            waiting[weights] -= 1
        self._iterations += 1
        if not self._similarity() > before[2]:
            self.vector, self.index = before[:2]

    def result(self) -> Matched:
        """Return the current permutation."""
        return Matched(self.index, self._iterations, self._assignments, self._similarity())

    def _similarity(self) -> float:
        count = self._layout.parameter_size
        return float(self._reference[:count] @ self.vector[:count])

    def _known(self, group: Group, waiting: Tensor, ordered: bool) -> list[Tensor]:
        """Return the neurons of reference and model, 0 for weights that others have yet to move.

        If the entries of a neuron have no order yet, they are sorted by value, so that the product
        of two neurons is the largest over all orders.
        """
        masks = [count <= 1 for count in _parts(self._layout, group, waiting)]  # 1 is this group
        neurons = []
        for vector in (self._reference, self.vector):
            parts = _parts(self._layout, group, vector)
            known = [part * mask for part, mask in zip(parts, masks, strict=True)]
            neurons.append(_rows(known if ordered else [part.sort(1).values for part in known]))
        return neurons

    def _improve(self, group: Group, target: Tensor, neurons: Tensor | None = None) -> bool:
        """Give a group its best order, and return whether that is better than the current one.

        Args:
            group: the group to permute.
            target: neurons of the reference, `(n, m)`.
            neurons: neurons of the model, `(n, m)`; None for those of the current vector.
        """
        if neurons is None:
            neurons = _neurons(self._layout, group, self.vector)
        similarity = target @ neurons.T
        order = best_order(similarity)
        self._assignments += 1
        new = torch.from_numpy(order).to(neurons.device)
        gains = similarity.gather(1, new[:, None])[:, 0] - similarity.diagonal()
        size = target.norm(dim=1) * (neurons.norm(dim=1) + neurons[new].norm(dim=1))
        if not gains.sum() > LEAST * size[gains != 0].sum():
            return False
        for vector in (self.vector, self.index):
            permute_(self._layout, group, order, vector)
        return True


def _neurons(layout: Layout, group: Group, vector: Tensor) -> Tensor:
    """Return the parameters in `vector` `(F,)` that each neuron owns, one row each, `(n, m)`."""
    return _rows(_parts(layout, group, vector))


def _rows(parts: Iterable[Tensor]) -> Tensor:
    return torch.cat([part.flatten(1) for part in parts], 1)


def _parts(layout: Layout, group: Group, vector: Tensor) -> list[Tensor]:
    """Return the parts of `vector` `(F,)` that a group owns, one per tensor, `(n, r, ...)`."""
    entries, parts = {entry.name: entry for entry in layout.parameters}, []
    for place in group.places:
        if place.tensor in entries:
            rows = entries[place.tensor].view(vector).movedim(place.axis, 0)
            parts.append(rows[torch.from_numpy(place.at).to(vector.device)])
    return parts
