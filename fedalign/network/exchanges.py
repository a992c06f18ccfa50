"""Which neurons may be exchanged: what a table says, after it has been tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from torch import Tensor, nn

from fedalign.errors import InputError
from fedalign.models.symmetry import Group, Place, stranger, symmetry
from fedalign.network.agreement import Trial
from fedalign.network.constants import constants
from fedalign.network.layout import Layout
from fedalign.network.permutations import permute
from fedalign.network.twins import place_of
from fedalign.rng import rng
from fedalign.settings.contracts import HasSymmetry


class Exchangeable(NamedTuple):
    """The neurons of a network that may be exchanged.

    Attributes:
        groups: none where nothing is known.
        reason: why nothing is known, as the end of a sentence; "" where something is.
    """

    groups: tuple[Group, ...]
    reason: str = ""


def exchangeable(module: nn.Module, layout: Layout, trial: Trial | None) -> Exchangeable:
    """Return a module's groups of neurons, if exchanging them at random changes no output.

    Without a `trial` its table is believed. Neurons with constants stay where they are.

    Raises:
        InputError: The module's own table is wrong; names the group, and the tensor if it can.
    """
    groups = symmetry(module)
    if not groups:
        return Exchangeable((), stranger(module))
    fixed = constants(module).keys()
    groups = tuple(group for group in groups if fixed.isdisjoint(p.tensor for p in group.places))
    if not groups:
        return Exchangeable((), "all of its neurons have weights that never train")
    if trial is None:
        return Exchangeable(groups)
    tried = _Tried(layout, trial)
    if tried.effect(groups) < 1:
        return Exchangeable(groups)
    wrong = next((group for group in groups if tried.effect([group]) >= 1), groups[0])
    if isinstance(module, HasSymmetry):
        raise InputError(
            f"{type(module).__name__}.symmetry(): group {wrong.name!r}: exchanging its neurons "
            f"changes what the network computes{tried.cure(wrong)}"
        )
    layer = wrong.name.partition("/")[0]
    place = place_of(layer, module.get_submodule(layer))
    return Exchangeable((), f"exchanging the neurons of {place} changes what the network computes")


class _Tried:
    """Exchanges neurons of random models."""

    def __init__(self, layout: Layout, trial: Trial):
        self._layout, self._trial = layout, trial

    def effect(self, groups: Sequence[Group]) -> float:
        """Return how much exchanging all neurons changes outputs; below 1 it is rounding."""

        def exchange(vector: Tensor) -> Tensor:
            stream = rng(0, "exchange")
            for group in groups:
                cycle = stream.permutation(group.size)  # leaves no neuron at its place
                order = np.empty_like(cycle)
                order[cycle] = np.roll(cycle, 1)
                vector = permute(self._layout, group, order, vector)
            return vector

        return self._trial.of_exchange(exchange)

    def cure(self, group: Group) -> str:
        """Return what is wrong with a group, if it lacks tensors or has one too many."""
        for number, place in enumerate(group.places):
            others = group.places[:number] + group.places[number + 1 :]
            if others and self.effect([replace(group, places=others)]) < 1:
                return f": {place.tensor!r} (axis {place.axis}) does not belong to it"
        lacking, effect, whole = list[str](), self.effect([group]), group
        while effect >= 1:
            more = [replace(whole, places=(*whole.places, p)) for p in self._candidates(whole)]
            effects = [self.effect([own]) for own in more]
            if not more or min(effects) > 0.9 * effect:
                return ""
            effect = min(effects)
            whole = more[effects.index(effect)]
            lacking.append(f"{whole.places[-1].tensor!r} (axis {whole.places[-1].axis})")
        return f": it lacks {' and '.join(lacking)}"

    def _candidates(self, group: Group) -> list[Place]:
        """Return the places with one entry for each neuron that a group does not have."""
        taken = {(place.tensor, place.axis) for place in group.places}
        at = np.arange(group.size)[:, None]
        return [
            Place(entry.name, axis, at)
            for entry in self._layout.entries
            for axis, length in enumerate(entry.shape)
            if length == group.size and (entry.name, axis) not in taken
        ]
