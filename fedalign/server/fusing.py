"""Every way to fuse a round's models, measured beside the models themselves."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from fedalign.data import Dataset
from fedalign.errors import InputError
from fedalign.federation.federation import Federation
from fedalign.fusions.recipe import Fused, Ingredients, Supplies, apply, needs_of, require
from fedalign.fusions.supplies import CURE, held_out, supplies_of
from fedalign.landscape.barriers import Point
from fedalign.server.callbacks import Callback
from fedalign.server.corrupted import FILE as CORRUPTIONS
from fedalign.server.corrupted import Corrupted, CorruptedImages, is_due, mean, rows
from fedalign.server.round import Added, Round
from fedalign.settings.registry import Part
from fedalign.settings.result_contracts import Fusion
from fedalign.settings.sections import Evaluation

FILE = "fusions.csv"
CLIENT = "client "  # before the number of an ingredient, where fusions have their names
CLEAN, CORRUPTED = ("test_loss", "test_accuracy"), ("corrupted_loss", "corrupted_accuracy")
ROW = ("round", "fusion", "ingredients", *CLEAN)  # columns that are always there
HELD_OUT = ("held_out_loss", "held_out_accuracy")
CURES = {
    "start": ", and with init: own there is none; give init: shared",
    "held_out": CURE,
    "probing": ": give a larger evaluation.server_share or holdout, or metric: accuracy",
    "images": ", and the server has none",
    "symmetry": "; give its class a method symmetry()",
}
log = logging.getLogger("fedalign")


def labels(parts: Sequence[Part]) -> list[str]:
    """Return what each fusion is called: its name, and the options that tell it from others."""
    return [_label(part, [own for own in parts if own.name == part.name]) for part in parts]


def _label(part: Part, alike: Sequence[Part]) -> str:
    told = [key for key in part.options if len({repr(own.options[key]) for own in alike}) > 1]
    words = [part.name, *(f"{key}-{part.options[key]}" for key in told)]
    return "-".join(re.sub(r"[^\w.+:]+", "-", word).strip("-") for word in words)


def measured(settings: Evaluation) -> list[str]:
    """Return the columns of `fusions.csv` in which there are losses and accuracies."""
    chooses = any("held_out" in needs_of(part.build()) for part in settings.fusions)
    corrupted = CORRUPTED if settings.corruptions else ()
    return [*CLEAN, *corrupted, *(HELD_OUT if chooses else ())]


def row(settings: Evaluation) -> list[str]:
    """Return the columns of `fusions.csv`."""
    return [*ROW, *measured(settings)[len(CLEAN) :]]


def columns(settings: Evaluation) -> list[str]:
    """Return the columns of `metrics.csv` that fusions and ingredients fill."""
    if not settings.fusions:
        return []
    ends = [_end(column) for column in measured(settings) if column not in HELD_OUT]
    found = [f"fusion_{label}_{end}" for label in labels(settings.fusions) for end in ends]
    found += [f"mean_ingredient_{end}" for end in ends]
    return found + [f"highest_ingredient_{end}" for end in ends if "accuracy" in end]


def _end(column: str) -> str:
    return column.removeprefix("test_")


def judges(federation: Federation) -> list[Callback]:
    """Return what measures corrupted images and fusions, as far as the configuration asks for it.

    Raises:
        InputError: there is no test set, or the examples are no images, or a fusion lacks
            something.
    """
    config, settings = federation.config, federation.config.evaluation
    for key in ("corruptions", "fusions"):
        if getattr(settings, key) and federation.test is None:
            raise InputError(
                f"evaluation.{key}: the data set {config.data.name!r} has no test part to test on"
            )
    if federation.test is None or not (settings.corruptions or settings.fusions):
        return []
    network = federation.network.twin()
    images, found = CorruptedImages(federation.test, settings), list[Callback]()
    if settings.corruptions:
        found.append(Corrupted(network, images, settings, config.rounds))
    if settings.fusions:
        supplies = supplies_of(federation, network, held_out(federation, share=0).rows)
        shared = config.init == "shared"
        found.append(Fusing(supplies, images, settings, config.rounds, shared))
    return found


@dataclass
class Fusing(Callback):
    """A callback that fuses the round's models, and tests the results and the models.

    Attributes:
        supplies: what fusions may use beside the models.
        images: the test set, and corrupted copies of it.
        settings: of the measurements.
        rounds: the number of the last round.
        shared: in the first round, too, all models start from the one that was sent.
    """

    supplies: Supplies
    images: CorruptedImages
    settings: Evaluation
    rounds: int
    shared: bool

    def __post_init__(self) -> None:
        """Raise `InputError` if a fusion lacks something."""
        parts = self.settings.fusions
        self._fusions: dict[str, tuple[Part, Fusion]] = {
            label: (part, part.build()) for label, part in zip(labels(parts), parts, strict=True)
        }
        for part, fusion in self._fusions.values():
            require(part.name, fusion, self.supplies, self.shared, CURES)

    def models_wanted(self, number: int, partitions: Sequence[int]) -> Collection[int]:
        """Return all clients, if the round is measured."""
        return partitions if is_due(self.settings, number, self.rounds) else ()

    def on_round(self, outcome: Round) -> Added:
        """Return loss and accuracy of each ingredient and of each fusion."""
        if not outcome.clients or not is_due(self.settings, outcome.number, self.rounds):
            return Added()
        of = self._ingredients(outcome)
        shares = torch.eye(len(of.models)).tolist()
        found = {
            f"{CLIENT}{name}": Fused(model, of.models, own)
            for name, model, own in zip(of.names, of.models, shares, strict=True)
        }
        for label, (part, fusion) in self._fusions.items():
            try:
                found[label] = apply(part.name, fusion, of)
            except InputError as error:  # no reason to lose a run
                log.warning("round %d: %r is not measured: %s", outcome.number, label, error)
        corrupted = {name: self.images.points(self._score(own)) for name, own in found.items()}
        cells = {
            name: {"fusion": name, "ingredients": _used(of, own)}
            | self._measured(own)
            | mean(corrupted[name])
            for name, own in found.items()
        }
        tables = {FILE: list(cells.values())}
        if self.settings.corruptions:
            tables[CORRUPTIONS] = [r for name, own in corrupted.items() for r in rows(name, own)]
        return Added(self._metrics(cells), tables=tables)

    def _ingredients(self, outcome: Round) -> Ingredients:
        layout, sampled = self.supplies.network.layout, outcome.sampled
        sizes = [sampled[client].examples for client in outcome.clients]
        known = [float(size) for size in sizes if size is not None]
        return Ingredients(
            self.supplies,
            torch.stack([layout.to_vector(own) for own in outcome.clients.values()]),
            known if len(known) == len(sizes) else None,
            layout.to_vector(outcome.before) if self.shared or outcome.number > 1 else None,
            list(map(str, outcome.clients)),
        )

    def _score(self, fused: Fused) -> Callable[[Dataset], Point]:
        how = self.settings.batch_size, self.settings.threads
        return lambda data: fused.score(self.supplies.network, data, *how)

    def _measured(self, fused: Fused) -> dict[str, Any]:
        """Return loss and accuracy on the test set, and on what is held out if any chose by it."""
        score = self._score(fused)
        found = dict(zip(CLEAN, score(self.images.test), strict=True))
        if self.supplies.held_out is not None and HELD_OUT[0] in measured(self.settings):
            found |= zip(HELD_OUT, score(self.supplies.held_out), strict=True)
        return found

    def _metrics(self, cells: Mapping[str, Mapping[str, Any]]) -> dict[str, float]:
        """Return the columns of `metrics.csv`, see `columns`."""
        metrics: dict[str, float] = {}
        for column in (own for own in measured(self.settings) if own not in HELD_OUT):
            values, end = {name: float(own[column]) for name, own in cells.items()}, _end(column)
            ingredients = [own for name, own in values.items() if name not in self._fusions]
            metrics |= {
                f"fusion_{name}_{end}": own for name, own in values.items() if name in self._fusions
            }
            metrics[f"mean_ingredient_{end}"] = float(np.mean(ingredients))
            if "accuracy" in end:
                metrics[f"highest_ingredient_{end}"] = max(ingredients)
        return metrics


def _used(of: Ingredients, fused: Fused) -> str:
    """Return the models that have a share, such as `0+3`."""
    pairs = zip(of.names, fused.shares, strict=True)
    return "+".join(name for name, share in pairs if share > 0)
