"""What a fusion is given, what it returns, and what fedalign's own fusions have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedalign.data import Dataset
from fedalign.errors import InputError, named
from fedalign.landscape.barriers import Point
from fedalign.landscape.repair import Repair
from fedalign.network.features import last_linear
from fedalign.network.network import Network
from fedalign.settings.result_contracts import Fusion
from fedalign.transfer import halves
from fedalign.transfer.halves import can_score
from fedalign.transfer.probe import LEAST

Repairing = Annotated[
    Literal["none", "statistics", "repair"],
    Field(
        description="statistics: BatchNorm's are estimated anew on training images; repair: REPAIR "
        "(Jordan et al. 2023) after that; none: statistics are averaged"
    ),
]
Weights = Annotated[
    Literal["equal", "examples"] | list[Annotated[float, Field(ge=0)]],
    Field(description="equal; examples: as many as each model was trained on; or a number each"),
]
NEEDS = {
    "start": "the model that all of them started from",
    "held_out": "held-out examples",
    "probing": f"a last linear layer, and {2 * LEAST} held-out examples of each task",
    "images": "training images",
    "symmetry": "a model whose exchangeable neurons are known",
}
"""What a fusion may need beside the models, and what to call it."""


@dataclass(frozen=True, eq=False)
class Supplies:
    """What a fusion may use beside the models.

    Attributes:
        network: the network that all models belong to.
        seed: of random draws.
        images: `(N, C, H, W)` uint8 to train on, for statistics of activations; never test images.
        held_out: examples to choose by, which are neither among `images` nor the test set's.
        batch: examples in one forward pass for statistics.
    """

    network: Network
    seed: int
    images: Tensor
    held_out: Dataset | None
    batch: int

    def has(self, need: str) -> bool:
        """Return whether there is one of `NEEDS`; a start there never is."""
        if need == "held_out":
            return self.held_out is not None
        if need == "probing":
            head = last_linear(self.network.module)
            return head is not None and self.held_out is not None and can_score(self.held_out)
        return bool(len(self.images) if need == "images" else self.network.symmetry)

    def score(self, model: Tensor) -> Point:
        """Return loss and accuracy of a model `(F,)` on the held-out examples."""
        assert self.held_out is not None  # see `require`
        return self.network.evaluate(model, self.held_out)

    def probe(self, model: Tensor) -> Point:
        """Return loss and accuracy of probes of a model's body `(F,)` on the held-out examples."""
        assert self.held_out is not None
        return halves.score(self.network, model, self.held_out, self.batch)


@dataclass(frozen=True, eq=False)
class Ingredients:
    """Models to be fused.

    Attributes:
        supplies: what else a fusion may use.
        models: `(K, F)`, in memory of the host.
        weights: how many examples each was trained on; None where that is not known.
        start: `(F,)`, the model that all of them started from; None where that is not known.
        names: of the models, for what is told of them; by default their numbers.
    """

    supplies: Supplies
    models: Tensor
    weights: Sequence[float] | None = None
    start: Tensor | None = None
    names: Sequence[str] = ()

    def name(self, number: int) -> str:
        """Return the name of a model."""
        return self.names[number] if self.names else str(number)

    def shares(self, weights: str | Sequence[float]) -> list[float]:
        """Return the share of each model, which add up to 1, of a setting `Weights`."""
        count = len(self.models)
        own = [1.0] * count if weights == "equal" else self._examples(weights)
        if len(own) != count:
            raise InputError(f"fusion.weights: {len(own)} weights for {count} models")
        if not sum(own) > 0:
            raise InputError(f"fusion.weights: {weights!r} are all 0")
        return [weight / sum(own) for weight in own]

    def _examples(self, weights: str | Sequence[float]) -> Sequence[float]:
        if not isinstance(weights, str):
            return weights
        if self.weights is None:
            raise InputError(
                "fusion.weights: 'examples', but it is not known on how many examples each model "
                "was trained; give a number for each, such as fusion.weights=[3,1]"
            )
        return self.weights


@dataclass(frozen=True, eq=False)
class Fused:
    """What becomes of several models.

    Attributes:
        model: `(F,)`; None if they only predict together.
        parts: `(K, F)`, the models it was made of, their neurons in its order.
        shares: how much each counts; they add up to 1.
        facts: what was decided on the way, by name, as plain values for the card.
        predict: measures loss and accuracy where there is no model.
    """

    model: Tensor | None
    parts: Tensor
    shares: Sequence[float]
    facts: Mapping[str, Any] = field(default_factory=dict)
    predict: Callable[[Dataset], Point] | None = None

    def score(
        self, network: Network, data: Dataset, batch: int | None = None, threads: int = 1
    ) -> Point:
        """Return loss and accuracy on data of the model, or of what predicts in its place."""
        if self.predict is not None:
            return self.predict(data)
        assert self.model is not None
        return network.evaluate(self.model, data, batch, threads)


@dataclass(frozen=True)
class Recipe(ABC):
    """A fusion that makes a model, and repairs it."""

    repair: Repairing = field(default="statistics", kw_only=True)

    @property
    def needs(self) -> frozenset[str]:
        """What it cannot do without, of `NEEDS`."""
        return frozenset({"images"} if self.repair == "repair" else ())

    @abstractmethod
    def combine(self, of: Ingredients) -> Fused:
        """Return the fused model, not yet repaired."""

    def fuse(self, of: Ingredients) -> Fused:
        """Return the fused model."""
        return self.repaired(self.combine(of), of.supplies)

    def repaired(self, fused: Fused, supplies: Supplies) -> Fused:
        """Return it repaired; what is one of the parts, to the bit, stays as it is."""
        model, network = fused.model, supplies.network
        if model is None or self.repair == "none":
            return fused
        if any(torch.equal(part, model) for part in fused.parts):
            return fused
        model = network.recalibrate(model, supplies.images, supplies.batch)
        if self.repair == "repair":
            parts = {str(number): part for number, part in enumerate(fused.parts)}
            mix = {name: s for name, s in zip(parts, fused.shares, strict=True) if s}
            model = Repair(network, parts, supplies.images)(model, mix)
        return replace(fused, model=model.cpu())


def needs_of(fusion: Any) -> Collection[str]:
    """Return what any fusion needs; one that does not say so needs nothing."""
    return frozenset(getattr(fusion, "needs", ()))


def require(
    called: str, fusion: Any, supplies: Supplies, start: bool, cures: Mapping[str, str]
) -> None:
    """Raise `InputError` if a fusion lacks something that it needs; `cures` say how to give it."""
    for need, what in NEEDS.items():
        if need in needs_of(fusion) and not (start if need == "start" else supplies.has(need)):
            why = f": {supplies.network.exchangeable.reason}" if need == "symmetry" else ""
            raise InputError(f"fusion: {called!r} needs {what}{why}{cures[need]}")


def apply(called: str, fusion: Fusion, of: Ingredients) -> Fused:
    """Return what any fusion makes of models.

    Raises:
        InputError: it fails, or returns no such model.
    """
    with named(f"fusion: {called!r}"):
        fused = fusion.fuse(of)
    if not isinstance(fused, Fused):
        raise InputError(f"fusion: {called!r} returned a {type(fused).__name__}, no Fused")
    if fused.model is None:
        return fused
    if fused.model.shape != of.models.shape[1:]:
        shapes = f"{tuple(fused.model.shape)}, not {tuple(of.models.shape[1:])}"
        raise InputError(f"fusion: {called!r} returned a model of shape {shapes}")
    if bad := int((~torch.isfinite(fused.model)).sum()):
        raise InputError(f"fusion: {called!r} returned a model with {bad} numbers not finite")
    return fused


def combined(models: Tensor, shares: Sequence[float]) -> Tensor:
    """Return the weighted sum `(F,)` of models `(K, F)`, computed in float64.

    Shares add up to 1 but for the rounding of float64, so that equal models give their own bits.

    >>> combined(torch.tensor([[1.0, 2.0], [5.0, 2.0]]), [0.25, 0.75])
    tensor([4., 2.])
    """
    total = torch.zeros(models.shape[1], dtype=torch.float64)
    for model, share in zip(models, shares, strict=True):
        total += share * model.double()
    return total.float()


def alike(count: int) -> list[float]:
    """Return equal shares."""
    return [1 / count] * count


def worth(point: Point, metric: str) -> float:
    """Return a number that is larger for better models."""
    return -point[0] if metric == "loss" else point[1]
