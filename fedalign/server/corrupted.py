"""The global model on corrupted copies of the test images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from fedalign.data import Dataset
from fedalign.errors import InputError
from fedalign.landscape.barriers import Point
from fedalign.network.network import Network
from fedalign.server.callbacks import Callback
from fedalign.server.round import Added, Round
from fedalign.settings.sections import Evaluation

FILE, ROW = "corruptions.csv", ("round", "model", "corruption", "severity", "loss", "accuracy")
Points = Mapping[tuple[str, int], Point]
"""Loss and accuracy by corruption and severity."""


def columns(settings: Evaluation) -> list[str]:
    """Return the columns of `metrics.csv` that the global model fills."""
    return ["corrupted_loss", "corrupted_accuracy"] if settings.corruptions else []


def is_due(settings: Evaluation, number: int, rounds: int) -> bool:
    """Return whether what `evaluation.every` is about is measured in a round."""
    return number % settings.every == 0 or number == rounds


@dataclass(frozen=True, eq=False)
class CorruptedImages:
    """Copies of the test images by corruption and severity, made when first needed.

    Raises:
        InputError: the examples are no images.
    """

    test: Dataset
    settings: Evaluation

    def __post_init__(self) -> None:
        if self.settings.corruptions and self.test.images.ndim != 4:
            raise InputError(
                f"evaluation.corruptions: the examples are {self.test.spec.kind}, and only "
                "images can be corrupted; give none"
            )

    @cached_property
    def copies(self) -> dict[tuple[str, int], Dataset]:
        """The copies, on the device of the test images."""
        from fedalign.data.corruptions import corrupted  # Pillow is not needed by most runs

        if not self.settings.corruptions:
            return {}
        clean = self.test.subset(self.settings.corrupted_examples)
        host, device = clean.images.cpu(), clean.images.device
        return {
            (name, severity): replace(clean, images=corrupted(host, name, severity).to(device))
            for name in self.settings.corruptions
            for severity in self.settings.severity
        }

    def points(self, score: Callable[[Dataset], Point]) -> Points:
        """Return what is measured on each copy."""
        return {key: score(copy) for key, copy in self.copies.items()}


def mean(points: Points) -> dict[str, float]:
    """Return mean loss and accuracy over all copies, if there are any."""
    loss, accuracy = np.mean(list(points.values()), axis=0).tolist() if points else (0.0, 0.0)
    return {"corrupted_loss": loss, "corrupted_accuracy": accuracy} if points else {}


def rows(model: str, points: Points) -> list[dict[str, Any]]:
    """Return the rows of a model in `corruptions.csv`."""
    return [dict(zip(ROW[1:], (model, *key, *point), strict=True)) for key, point in points.items()]


@dataclass
class Corrupted(Callback):
    """A callback that tests the new global model on corrupted images."""

    network: Network
    images: CorruptedImages
    settings: Evaluation
    rounds: int

    def on_round(self, outcome: Round) -> Added:
        """Return mean loss and accuracy, and those on each copy."""
        if not is_due(self.settings, outcome.number, self.rounds):
            return Added()
        model = self.network.receive(outcome.after)
        how = self.settings.batch_size, self.settings.threads
        points = self.images.points(lambda data: self.network.evaluate(model, data, *how))
        return Added(mean(points), tables={FILE: rows("global", points)})
