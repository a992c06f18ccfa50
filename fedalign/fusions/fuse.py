"""One model of several files, and what it is worth."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedalign.data import Dataset
from fedalign.errors import InputError
from fedalign.federation.federation import Federation
from fedalign.federation.untrained import check_trained
from fedalign.fusions.inputs import Source
from fedalign.fusions.recipe import Fused, Ingredients, apply, require
from fedalign.fusions.supplies import HeldOut, held_out, supplies_of
from fedalign.landscape.barriers import Curve, Point
from fedalign.landscape.connect import config_of, letter
from fedalign.landscape.evaluator import Evaluator
from fedalign.landscape.files import read
from fedalign.landscape.paths import Path as Line
from fedalign.landscape.paths import grid, pairs
from fedalign.network.batch_norm import NORMS
from fedalign.network.device import torch_threads
from fedalign.settings.config import Config
from fedalign.settings.config import read as read_config
from fedalign.settings.registry import Part
from fedalign.settings.result_contracts import Fusion

INIT = "init"  # in place of a file: the weights that the configuration's seed gives
CURES = {
    "start": f": --start FILE, or --start {INIT} for the weights of the configuration's seed",
    "held_out": ", and there are none: the data set needs a training part, and --held-out above 0",
    "probing": ": give a larger --held-out, or fusion.metric=accuracy",
    "images": ", and the data set has no training part",
    "symmetry": "; give its class a method symmetry()",
}
OF_A_RUN = "seed", "num_clients", "partition", "data", "model", "init"
HELD_OUT = "holdout", "server_share"
log = logging.getLogger("fedalign")


@dataclass(frozen=True)
class Measured:
    """Loss and accuracy of a model on the test set, and on the held-out examples if any."""

    test: Point
    held_out: Point | None


@dataclass(frozen=True)
class Fusing:
    """A fusion, and how good it and its ingredients are.

    Attributes:
        part: the fusion.
        config: says what the network and the data are.
        sources: the file of each ingredient, by its letter.
        start: what the common start is, for people; "" where there is none.
        weights: how many examples each ingredient was trained on, if that is known.
        held_out: which training examples were held out.
        fused: what became of the ingredients.
        state: the fused model as a state dict's tensors would be; None if there is none.
        measured: of each ingredient, by its letter.
        result: of the fused model.
        curves: on lines between ingredients.
        examples: number of test images: of all measurements, and of those on lines.
        source: which data they were tested on, with a digest.
    """

    part: Part
    config: Config
    sources: Mapping[str, Source]
    start: str
    weights: Sequence[float] | None
    held_out: HeldOut
    fused: Fused
    state: Mapping[str, Any] | None
    measured: Mapping[str, Measured]
    result: Measured
    curves: Sequence[Curve]
    examples: tuple[int, int]
    source: str

    @property
    def best(self) -> str:
        """The letter of the ingredient that is best on the test set; of equals the first."""
        return max(self.measured, key=lambda name: self.measured[name].test[1])

    @property
    def is_worse(self) -> bool:
        """Whether the fused model is less accurate on the test set than the best ingredient."""
        return self.result.test[1] < self.measured[self.best].test[1]


def fuse(
    sources: Sequence[Source], part: Part, config: Config, start: str | None, share: float
) -> Fusing:
    """Return the fusion of the models in files.

    Args:
        sources: the files.
        part: the fusion.
        config: `model` is the network of the files, `data` what they are tested on, `evaluation`
            the settings of the measurements.
        start: a file, or `init`; None: what the kept models of a run's round started from.
        share: of the training set to be held out, unless a run's clients hold some out.

    Raises:
        InputError: a file does not hold such a model, or the fusion lacks something.
    """
    federation, named = Federation(config), {letter(i): own for i, own in enumerate(sources)}
    if (test := federation.test) is None:
        raise InputError(f"fuse: data set {config.data.name!r} has no test part to measure on")
    network = federation.network
    fusion: Fusion = part.build()
    models = {name: read(source.file, network) for name, source in named.items()}
    for name, model in models.items():
        check_trained(federation, model, named[name].file)
    of_run = _of_its_run(sources, config)
    begun, told = _start(start, sources if of_run else (), federation)
    rows = held_out(federation, share, of_run)
    supplies = supplies_of(federation, network, rows.rows)
    if network.modules(*NORMS) and not len(supplies.images):
        log.warning("BatchNorm's statistics are averaged: there are no images to train on")
    require(part.name, fusion, supplies, begun is not None, CURES)
    weights = _weights(sources, federation) if of_run else None
    together = torch.stack(list(models.values()))
    of = Ingredients(supplies, together, weights, begun, list(named))
    with torch_threads(1):
        fused = apply(part.name, fusion, of)
        parts = [Fused(model, together, ()) for model in models.values()]
        measured = [_measure(federation, own, test, supplies.held_out) for own in (*parts, fused)]
        curves = _curves(models, federation, test)
    return Fusing(
        part=part,
        config=config,
        sources=named,
        start=told,
        weights=weights,
        held_out=rows,
        fused=fused,
        state=None if fused.model is None else _state(federation, fused.model),
        measured=dict(zip(named, measured, strict=False)),
        result=measured[-1],
        curves=curves,
        examples=(len(test), len(test.subset(config.evaluation.examples))),
        source=test.source,
    )


def sha256(file: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _of_its_run(sources: Sequence[Source], config: Config) -> bool:
    """Return whether all models lie in the folder of one run, whose configuration is this one."""
    found = {config_of(source.file) for source in sources}
    path = found.pop()
    if path is None or found:
        return False
    own = read_config(str(path), {})
    same = [getattr(own, key) == getattr(config, key) for key in OF_A_RUN]
    same += [getattr(own.evaluation, k) == getattr(config.evaluation, k) for k in HELD_OUT]
    return all(same)


def _start(
    given: str | None, sources: Sequence[Source], federation: Federation
) -> tuple[Tensor | None, str]:
    """Return the common start and what it is; of a run's models it may be known."""
    network, config = federation.network, federation.config
    if given is not None and (given != INIT or Path(given).exists()):
        file = Path(given)
        file = file / "model.safetensors" if file.is_dir() else file
        return read(file, network), str(file)
    rounds = {source.number for source in sources}
    number = rounds.pop() if len(rounds) == 1 else None
    if given == INIT or (number == 1 and config.init == "shared"):
        return network.layout.to_vector(federation.first), f"the weights of seed {config.seed}"
    if number is not None:
        before = sources[0].file.parent.with_name(f"round-{number - 1}") / "global.safetensors"
        if before.is_file():
            return read(before, network), str(before)
    return None, ""


def _weights(sources: Sequence[Source], federation: Federation) -> list[float] | None:
    """Return how many examples a run's clients trained on; None if not all are clients."""
    config = federation.config
    clients = [source.client for source in sources if source.client is not None]
    kept = len(clients) == len(sources) and all(c < config.num_clients for c in clients)
    if not kept or federation.reference is None:
        return None
    return [float(federation.num_trained(c, config.num_clients)) for c in clients]


def _measure(federation: Federation, fused: Fused, test: Dataset, held: Dataset | None) -> Measured:
    settings = federation.config.evaluation
    how = settings.batch_size, settings.threads
    points = [fused.score(federation.network, data, *how) for data in (test, held) if data]
    return Measured(points[0], points[1] if held else None)


def _curves(models: Mapping[str, Tensor], federation: Federation, test: Dataset) -> list[Curve]:
    """Return the curves on lines between ingredients: `evaluation.pairs` random pairs."""
    config, names = federation.config, list(models)
    settings = config.evaluation
    if not settings.alphas:
        return []
    chosen = pairs(range(len(names)), settings.pairs, config.seed, 0)
    alphas = grid(settings.alphas)
    lines = [Line(f"{names[i]}-{names[j]}", names[i], names[j], alphas) for i, j in chosen]
    evaluator = Evaluator(federation.network, test, federation.reference, settings)
    return evaluator.curves(models, lines)


def _state(federation: Federation, model: Tensor) -> dict[str, Any]:
    """Return a model as arrays under the names of the module's state dict."""
    layout = federation.network.layout
    counters = layout.counters_of(federation.network.initial)
    record = layout.to_state(layout.to_record(model, counters), federation.network.module)
    return {name: array.numpy() for name, array in record.items()}
