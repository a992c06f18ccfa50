"""Which permutation of a model's neurons brings its weights closest to another model's.

Weight matching of Git Re-Basin (Ainsworth et al. 2023, arXiv 2209.04836, section 3.2). Only
parameters decide; BatchNorm's statistics go where their neuron goes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from fedalign.landscape.permutations import permute_
from fedalign.models.symmetry import Group, lies_in
from fedalign.network.layout import Layout

LEAST = 1e-12  # of the product of the norms: a gain below it is rounding

Start = Literal["layers", "identity"]


@dataclass(frozen=True)
class Matched:
    """A permutation of a model, and what it took to find it.

    Attributes:
        index: `(F,)` int64; `vector[index]` is the model in its new order.
        iterations: passes over all groups, with the last one, in which nothing improved.
        assignments: linear assignment problems solved.
        similarity: what they maximised: the inner product of the parameters, or, of activations,
            the mean correlation of a neuron with its match.
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

    Coordinate descent: one group after the other, in random order, gets its best permutation while
    the others stay, until no group improves. The inner product of the parameters never falls below
    what it is without a permutation.

    Args:
        layout: of both models.
        groups: the model's symmetry.
        reference: stays as it is.
        vector: the model to permute.
        rng: decides the order of the groups.
        start: `identity` begins as the paper does. `layers` first goes through the groups from the
            input on, as FedMA does (Wang et al. 2020), and looks only at weights whose other end
            is matched already, and at heads of attention by what they hold in any order; the
            better of that and the identity is where the descent begins. So a permuted copy is
            recovered, if no two neurons of a layer have the same inputs.
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
    """Return for each row of `(n, n)` its column, so that the sum is largest, each column once.

    Where a model has diverged, and a similarity is not finite, everything stays in its place.
    """
    costs = similarity.cpu().numpy()
    if not np.isfinite(costs).all():
        return np.arange(len(costs))
    order: np.ndarray = linear_sum_assignment(costs, maximize=True)[1]
    return order


class Search:
    """A model on its way to a reference.

    Attributes:
        vector: `(F,)` float64, the model in its order so far.
        index: `(F,)`, that order.
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
        self._wanted = [_neurons(self._layout, group, self._reference) for group in self._groups]

    def adopt(self, matched: Matched) -> None:
        """Take over a permutation that was found for the vector as it is."""
        self.vector, self.index = self.vector[matched.index], self.index[matched.index]
        self._iterations += matched.iterations
        self._assignments += matched.assignments

    def sweep(self, numbers: Iterable[int]) -> bool:
        """Return whether any of the groups improved, each taken once."""
        self._iterations += 1
        better = [self._improve(self._groups[i], self._wanted[i]) for i in numbers]
        return any(better)

    def go_through_layers(self) -> None:
        """Match from the input on by what is matched already; undone if it makes things worse."""
        before = self.vector.clone(), self.index.clone(), self._similarity()
        owned = [_neurons(self._layout, group, self.index).flatten() for group in self._groups]
        waiting = torch.zeros_like(self.index)  # how many groups have still to move a weight
        for own in owned:
            waiting[own] += 1
        for group, own in zip(self._groups, owned, strict=True):
            inside = [i for i, inner in enumerate(self._groups) if lies_in(inner, group)]
            for number in inside:  # what is moved within its neuron is no hindrance
                waiting[owned[number]] -= 1
            self._improve(group, *self._known(group, waiting, ordered=not inside))
            for number in inside:
                waiting[owned[number]] += 1
            waiting[own] -= 1
        self._iterations += 1
        if not self._similarity() > before[2]:
            self.vector, self.index = before[:2]

    def result(self) -> Matched:
        """Return what was found."""
        return Matched(self.index, self._iterations, self._assignments, self._similarity())

    def _similarity(self) -> float:
        count = self._layout.num_parameters
        return float(self._reference[:count] @ self.vector[:count])

    def _known(self, group: Group, waiting: Tensor, ordered: bool) -> list[Tensor]:
        """Return the neurons of reference and model, 0 for weights that others have still to move.

        Where the entries of one neuron have no order yet they are sorted by size: the product of
        two neurons is then the largest that any order could give.
        """
        masks = [still <= 1 for still in _parts(self._layout, group, waiting)]  # but for this group
        found = []
        for vector in (self._reference, self.vector):
            parts = _parts(self._layout, group, vector)
            known = [part * mask for part, mask in zip(parts, masks, strict=True)]
            found.append(_rows(known if ordered else [part.sort(1).values for part in known]))
        return found

    def _improve(self, group: Group, wanted: Tensor, own: Tensor | None = None) -> bool:
        """Return whether a group has a better order than it had; it has it now."""
        own = _neurons(self._layout, group, self.vector) if own is None else own
        similarity = wanted @ own.T
        order = best_order(similarity)
        self._assignments += 1
        new = torch.from_numpy(order).to(own.device)
        gains = similarity.gather(1, new[:, None])[:, 0] - similarity.diagonal()
        size = wanted.norm(dim=1) * (own.norm(dim=1) + own[new].norm(dim=1))
        if not gains.sum() > LEAST * size[gains != 0].sum():
            return False
        for vector in (self.vector, self.index):
            permute_(self._layout, group, order, vector)
        return True


def _neurons(layout: Layout, group: Group, vector: Tensor) -> Tensor:
    """Return all parameters in `vector` `(F,)` that a neuron owns, as its row of `(n, m)`."""
    return _rows(_parts(layout, group, vector))


def _rows(parts: Iterable[Tensor]) -> Tensor:
    return torch.cat([part.flatten(1) for part in parts], 1)


def _parts(layout: Layout, group: Group, vector: Tensor) -> list[Tensor]:
    """Return what a group's neurons own in `vector` `(F,)`, tensor by tensor, `(n, r, ...)`."""
    entries, parts = {entry.name: entry for entry in layout.parameters}, []
    for place in group.places:
        if place.tensor in entries:
            rows = entries[place.tensor].view(vector).movedim(place.axis, 0)
            parts.append(rows[torch.from_numpy(place.at).to(vector.device)])
    return parts
