"""The mean of models whose neurons have been matched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedalign.errors import InputError
from fedalign.fusions.recipe import Fused, Ingredients, Recipe, Weights, combined
from fedalign.landscape.activations import activation_matching
from fedalign.landscape.matching import Start, to_reference, weight_matching
from fedalign.landscape.universe import universe
from fedalign.rng import rng


@dataclass(frozen=True)
class Matched(Recipe):
    """The mean after neurons were permuted into one order (Git Re-Basin, Ainsworth et al. 2023).

    `to: cycle` matches all models to one another (Git Re-Basin's MergeMany, with the objective of
    C2M3, Crisostomi et al. 2024), by weights only. The fused model has the order of the start if
    there is one, else that of the first model.
    """

    moves_neurons = True

    match: Annotated[
        Literal["weights", "activations"],
        Field(description="by weights, or by activations on the same images (Li et al. 2015)"),
    ] = "weights"
    to: Annotated[
        Literal["cycle", "first", "start"],
        Field(description="cycle: all to one another; or each to the first model, or to the start"),
    ] = "cycle"
    match_start: Annotated[
        Start,
        Field(description="start after a pass from the input on, or from the models as they are"),
    ] = "layers"
    weights: Weights = "equal"

    def __post_init__(self) -> None:
        """Raise `InputError` for options that contradict each other."""
        if self.match == "activations" and self.to == "cycle":
            raise InputError(
                "fusion.to: 'cycle' matches by weights only; with match: activations give to: first"
            )

    @property
    def needs(self) -> frozenset[str]:
        """The symmetry; the start if it is the reference; images for activations."""
        more = {"start"} if self.to == "start" else set[str]()
        return (
            super().needs
            | {"symmetry"}
            | more
            | ({"images"} if self.match == "activations" else set())
        )

    def combine(self, of: Ingredients) -> Fused:
        """Return the mean of the matched models."""
        orders, sweeps = self._orders(of)
        parts = torch.stack([model[o] for model, o in zip(of.models, orders, strict=True)])
        shares = of.shares(self.weights)
        return Fused(combined(parts, shares), parts, shares, {"sweeps": sweeps})

    def _orders(self, of: Ingredients) -> tuple[Sequence[Tensor], list[int]]:
        """Return the permutation `(F,)` of each model, and the passes that it took."""
        network, stream = of.supplies.network, rng(of.supplies.seed, "matched")
        how = network.layout, network.symmetry
        reference = of.start if self.to == "start" and of.start is not None else of.models[0]
        if self.match == "activations":
            images, batch = of.supplies.images, of.supplies.batch
            found = [
                activation_matching(network, network.symmetry, reference, model, images, batch)
                for model in of.models
            ]
        elif self.to == "cycle":
            found = list(universe(*how, list(of.models), stream, self.match_start).models)
        else:
            found = to_reference(*how, reference, of.models, stream, self.match_start)
        orders = [to.index.cpu() for to in found]
        back = self._back(of, orders)
        return [order[back] for order in orders], [to.iterations for to in found]

    def _back(self, of: Ingredients, orders: Sequence[Tensor]) -> Tensor:
        """Return what brings the common order of the models to that of the start, or the first."""
        if of.start is None:
            return torch.argsort(orders[0])
        if self.to == "start":
            return torch.arange(len(of.start))
        network, stream = of.supplies.network, rng(of.supplies.seed, "matched back")
        mean = torch.stack([m[o] for m, o in zip(of.models, orders, strict=True)]).mean(0)
        how = network.layout, network.symmetry
        return weight_matching(*how, of.start, mean, stream, self.match_start).index
