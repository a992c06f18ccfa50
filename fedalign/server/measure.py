"""What the server measures after a round: the global model, and interpolated models."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from fedalign.data import Dataset
from fedalign.errors import InputError
from fedalign.landscape.barriers import Curve, Point, barriers, fusion_gap
from fedalign.landscape.evaluator import Evaluator, curve, images_of
from fedalign.landscape.matcher import Matcher
from fedalign.landscape.paths import Mix, Path, grid, hybrids, pairs, repaired, simplex, some
from fedalign.landscape.planes import Plane, measured, plane
from fedalign.network.batch_norm import NORMS
from fedalign.network.device import side_stream
from fedalign.network.flat import MANY
from fedalign.network.network import Network
from fedalign.network.scorer import Scorer
from fedalign.rng import rng
from fedalign.server.callbacks import Callback
from fedalign.server.round import Added, Round
from fedalign.settings.sections import Evaluation

log = logging.getLogger("fedalign")

KINDS = {
    "global": "global",
    "clients": "client",
    "to_global": "to_global",
    "matched": "matched",
    "repaired": "repaired",
    "matched_repaired": "matched_repaired",
}
"""The prefix of a barrier's column in `metrics.csv`, by the kind of its path."""
POINTS = {
    "client": ("ends_accuracy", "midpoint_accuracy"),
    **dict.fromkeys(("matched", "repaired", "matched_repaired"), ("midpoint_accuracy",)),
}


def columns(settings: Evaluation) -> list[str]:
    """Return the columns of `metrics.csv` that measuring the landscape fills."""
    shown = ["global", "client"]
    shown += ["to_global"] if settings.to_global else []
    shown += ["matched"] if settings.match != "none" else []
    shown += ["repaired"] if settings.repair else []
    shown += ["matched_repaired"] if settings.repair and "matched" in shown else []
    names = [f"{kind}_{name}_barrier" for kind in shown for name in ("loss", "accuracy")]
    names += [f"{kind}_{name}" for kind in shown for name in POINTS.get(kind, ())]
    names += ["matching_sweeps"] if "matched" in shown else []
    gaps = {"mix": settings.mixes > 0, "fusion": settings.fusion_gap}
    gaps["matched_fusion"] = settings.fusion_gap and "matched" in shown
    return names + [
        f"{gap}_gap{end}" for gap, on in gaps.items() if on for end in ("", "_accuracy")
    ]


@dataclass(frozen=True)
class Gap:
    """A mix of models beside these models, for the metric of this name."""

    name: str
    mix: Mix
    parts: Sequence[str]
    weights: Sequence[float]

    def mixes(self) -> list[Mix]:
        """Return the mix and its parts, all of which must be measured."""
        return [self.mix, *({part: 1.0} for part in self.parts)]


@dataclass(frozen=True)
class Chosen:
    """The clients between whose models a round's paths lie, and those that are mixed."""

    pairs: Sequence[tuple[int, int]] = ()
    to_global: Sequence[int] = ()
    mixed: Sequence[int] = ()

    @property
    def clients(self) -> set[int]:
        """All clients that are chosen."""
        return {i for pair in self.pairs for i in pair}.union(self.to_global, self.mixed)


@dataclass
class Measure(Callback):
    """A callback that evaluates the new global model, and mixes of the round's models.

    Attributes:
        rounds: the number of the last round, which is always measured (see `settings.every`).
        sizes: the number of examples of each partition, its weight in the fusion gap.
        train: the training set; None if only clients have data.
    """

    network: Network
    test: Dataset
    train: Dataset | None
    settings: Evaluation
    seed: int
    rounds: int
    sizes: Sequence[int] | Mapping[int, int]

    def __post_init__(self) -> None:
        settings = self.settings
        self._scorer = Scorer(self.network, self.test, settings.batch_size, settings.threads)
        self._evaluator = Evaluator(self.network, self.test, self.train, settings)
        self._images = images_of(self.train, self.test, self.settings)
        self._stream = side_stream(self.network.device)  # after the data, which it waits for
        self._started: Callable[[], Added] | None = None
        self._chosen: dict[int, Chosen] = {}
        if self.train is None:
            self._do_without()
        if self.settings.match != "none" and not self.network.symmetry:
            raise InputError(
                f"evaluation.match: {self.settings.match!r}, but it is not known which neurons of "
                f"this model can be exchanged: {self.network.exchangeable.reason}; give its class "
                "a method symmetry(), or match: none"
            )

    def _do_without(self) -> None:
        """Refuse what needs training images, or warn that its numbers are averages."""
        settings, nobody = self.settings, "the server has no images to train on"
        if settings.match == "activations" or settings.repair:
            place = "repair" if settings.repair else "match"
            raise InputError(f"evaluation.{place}: {getattr(settings, place)!r}, but {nobody}")
        if self.network.modules(*NORMS):
            log.warning("mixed models have averaged BatchNorm statistics, since %s", nobody)

    def capture(self, outcome: Round) -> None:
        """Start to measure the round, on a GPU."""
        if self._stream is not None:
            self._started = self._start(outcome)

    def on_round(self, outcome: Round) -> Added:
        """Return test loss and accuracy, mean barriers and gaps, and the curves and planes."""
        finish, self._started = self._started or self._start(outcome), None
        with torch.cuda.stream(self._stream):
            return finish()

    def _start(self, outcome: Round) -> Callable[[], Added]:
        """Measure a round; a GPU goes on until what is returned is called."""
        after, due = self.network.receive(outcome.after), self._is_due(outcome.number)
        models = self._vectors(outcome) if due else {}
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(self.network.device))
        with torch.cuda.stream(self._stream):  # None, for a CPU, changes nothing
            # First what reads numbers from the device, which would wait for what is queued.
            landscape = self._measure(outcome, models) if due else Added
            scores = self._scorer.scores(after)

        def finish() -> Added:
            found = landscape()
            loss, accuracy = scores[0].tolist()
            metrics = {"test_loss": loss, "test_accuracy": accuracy, **found.metrics}
            return replace(found, metrics=metrics)

        return finish

    def models_wanted(self, number: int, partitions: Sequence[int]) -> set[int]:
        """Return the partitions whose models are measured, of those that train in the round."""
        if not self._is_due(number):
            return set()
        settings, seed = self.settings, self.seed
        lines = partitions if settings.alphas or settings.plane else ()
        self._chosen[number] = chosen = Chosen(
            pairs(lines, settings.pairs, seed, number),
            some(lines, settings.to_global, seed, "to_global", number),
            partitions if settings.fusion_gap or settings.mixes else (),
        )
        return chosen.clients

    def _is_due(self, number: int) -> bool:
        settings = self.settings
        asked = settings.alphas, settings.plane, settings.mixes, settings.fusion_gap
        return any(asked) and (number % settings.every == 0 or number == self.rounds)

    def _vectors(self, outcome: Round) -> dict[str, Tensor]:
        """Return the round's models: on the device if they fit, on the host to match neurons."""
        layout, wanted = self.network.layout, self._chosen.get(outcome.number, Chosen()).clients
        records = {str(i): own for i, own in outcome.clients.items() if i in wanted}
        records |= {"before": outcome.before, "after": outcome.after}
        on_host = self.settings.match != "none" or len(records) * layout.size > MANY
        decode = layout.to_vector if on_host else self.network.vector_of
        return {name: decode(model) for name, model in records.items()}

    def _measure(self, outcome: Round, models: dict[str, Tensor]) -> Callable[[], Added]:
        """Measure all points of the round at once; what is returned makes curves and metrics."""
        chosen = self._chosen.pop(outcome.number, Chosen())
        matcher = self._matcher(outcome.number)
        paths = self._paths(chosen, models, matcher) if self.settings.alphas else []
        planes = self._planes(chosen, models)
        gaps = self._gaps(outcome, models, matcher)
        plain = [path for path in paths if not path.repaired]
        lists = [part.mixes() for parts in (plain, planes, gaps) for part in parts]
        points_of = self._evaluator.start(models, [mix for mixes in lists for mix in mixes])

        def finish() -> Added:
            points = iter(points_of())
            curves = [curve(path, [next(points) for _ in path.alphas]) for path in plain]
            repaired = [path for path in paths if path.repaired]
            curves += self._evaluator.curves(models, repaired)
            maps = [measured(plane, [next(points) for _ in plane.places]) for plane in planes]
            metrics = _of_curves(curves) | _of_gaps(gaps, points)
            if matcher and matcher.sweeps:
                metrics["matching_sweeps"] = float(np.mean(matcher.sweeps))
            return Added(metrics, curves, maps)

        return finish

    def _matcher(self, number: int) -> Matcher | None:
        if self.settings.match == "none":
            return None
        return Matcher(self.network, self.settings, self._images, rng(self.seed, "match", number))

    def _paths(
        self, chosen: Chosen, models: dict[str, Tensor], matcher: Matcher | None
    ) -> list[Path]:
        """Return the round's paths; adds to `models` those that exist only as ends of paths."""
        settings = self.settings
        alphas = grid(settings.alphas)
        paths = [Path("global", "before", "after", grid(settings.alphas, settings.extrapolate))]
        for i in map(str, chosen.to_global):
            if i in models:
                paths.append(Path(f"to_global:{i}", i, "after", alphas))
        for i, j in (map(str, pair) for pair in chosen.pairs):
            if {i, j} <= models.keys():
                paths.append(Path(f"clients:{i}-{j}", i, j, alphas))
                paths += self._by_layer(i, j, models) if settings.layers else []
                if matcher:
                    models[f"{j}~{i}"] = matcher.pair(models[i], models[j])
                    paths.append(Path(f"matched:{i}-{j}", i, f"{j}~{i}", alphas))
        between = [path for path in paths if path.name.startswith(("clients:", "matched:"))]
        return [*paths, *repaired(between)] if settings.repair else paths

    def _planes(self, chosen: Chosen, models: dict[str, Tensor]) -> list[Plane]:
        """Return the round's planes, each through two clients' models and their common start."""
        side = self.settings.plane
        pairs = [pair for pair in chosen.pairs if {*map(str, pair)} <= models.keys()]
        corners = [(str(i), str(j), "before") for i, j in pairs] if side else []
        found = [plane(f"plane:{i}-{j}", (i, j, k), models, side) for i, j, k in corners]
        return [one for one in found if one is not None]

    def _by_layer(self, i: str, j: str, models: dict[str, Tensor]) -> list[Path]:
        found = hybrids(self.network.layout, models[i], models[j])
        models |= {f"{i}<{j}:{layer}": model for layer, model in found.items()}
        alphas = grid(self.settings.alphas)
        return [Path(f"layer:{i}-{j}:{name}", i, f"{i}<{j}:{name}", alphas) for name in found]

    def _gaps(
        self, outcome: Round, models: dict[str, Tensor], matcher: Matcher | None
    ) -> list[Gap]:
        """Return the round's aggregates and random mixes beside the models they are made of."""
        parts = [str(partition) for partition in outcome.clients]
        if not parts:
            return []
        weights, gaps = [float(self.sizes[partition]) for partition in outcome.clients], []
        if self.settings.fusion_gap:
            gaps.append(Gap("fusion_gap", {"after": 1.0}, parts, weights))
            if matcher:
                aligned = matcher.together([models[part] for part in parts])
                models |= {f"{part}~": model for part, model in zip(parts, aligned, strict=True)}
                shares = {f"{p}~": w / sum(weights) for p, w in zip(parts, weights, strict=True)}
                gaps.append(Gap("matched_fusion_gap", shares, parts, weights))
        drawn = simplex(len(parts), self.settings.mixes, self.seed, outcome.number)
        for own in drawn.tolist():
            gaps.append(Gap("mix_gap", dict(zip(parts, own, strict=True)), parts, own))
        return gaps


def _of_curves(curves: Sequence[Curve]) -> dict[str, float]:
    """Return the mean barriers over the paths of each kind."""
    metrics: dict[str, float] = {}
    for kind, name in KINDS.items():
        own = [barriers(curve) for curve in curves if curve.kind == kind]
        if own:
            means = {key: float(np.mean([found[key] for found in own])) for key in own[0]}
            metrics |= {f"{name}_{key}": means[key] for key in ("loss_barrier", "accuracy_barrier")}
            metrics |= {f"{name}_{key}": means[key] for key in POINTS.get(name, ())}
    return metrics


def _of_gaps(gaps: Sequence[Gap], points: Iterator[Point]) -> dict[str, float]:
    """Return the mean gaps of each name."""
    found: dict[str, list[Point]] = {}
    for gap in gaps:
        mixed, *apart = (next(points) for _ in gap.mixes())
        found.setdefault(gap.name, []).append(fusion_gap(mixed, apart, gap.weights))
    metrics: dict[str, float] = {}
    for name, own in found.items():
        metrics[name], metrics[f"{name}_accuracy"] = np.mean(own, axis=0).tolist()
    return metrics
