"""The tables of a run folder: which there are, their columns, and the rows of a curve."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from fedalign.landscape.barriers import Curve, barriers
from fedalign.server import client_metrics, corrupted, fusing, measure, tasks
from fedalign.settings.sections import Evaluation
from fedalign.transfer import judge

COSTS = ("seconds", "cpu_seconds", "peak_memory")  # which differ between equal runs
METRICS = (
    "round", "train_loss", "test_loss", "test_accuracy", "clients", "dropped",
    "bytes_down", "bytes_up", *COSTS, "client_steps",
)  # fmt: skip
LANDSCAPE = ("round", "path", "alpha", "loss", "accuracy")
BARRIERS = (
    "round", "path", "ends_loss", "midpoint_loss", "ends_accuracy", "midpoint_accuracy",
    "loss_barrier", "accuracy_barrier", "instability", "rebasin_barrier",
    "midpoint_loss_gap", "midpoint_accuracy_gap",
)  # fmt: skip
PLANES = ("round", "plane", "corner", "x", "y", "loss", "accuracy")
SAMPLED = ("round", "client", "examples", "train_loss", "outcome")
CLIENTS = (
    "round", "partition", "examples", "loss", "accuracy", "tuned_loss", "tuned_accuracy",
)  # fmt: skip

# A metric whose name has one of these words is better the lower it is.
LOWER = (
    "barrier", "bytes", "dropped", "gap", "instability", "loss", "memory", "seconds", "std",
    "sweeps",
)  # fmt: skip


def metrics_in(file: Path) -> list[dict[str, float]]:
    """Return the rounds in a `metrics.csv`, each with the metrics that it measured."""
    with file.open(newline="", encoding="utf-8") as table:
        rows = list(csv.DictReader(table))
    return [{name: float(cell) for name, cell in row.items() if cell} for row in rows]


def lower_is_better(metric: str) -> bool:
    """Return whether the smallest value of a metric is the best, such as of a loss."""
    return any(word in LOWER for word in metric.split("_"))


def columns(settings: Evaluation) -> dict[str, Sequence[str]]:
    """Return the columns of each table that a run with these settings writes, by file name."""
    metrics = [*METRICS, *measure.columns(settings), *client_metrics.columns(settings)]
    metrics += [*corrupted.columns(settings), *fusing.columns(settings), *judge.columns(settings)]
    tables = {"metrics.csv": metrics, "landscape.csv": LANDSCAPE, "barriers.csv": BARRIERS}
    tables["sampled.csv"] = SAMPLED
    tables |= {"planes.csv": PLANES} if settings.plane else {}
    tables |= {corrupted.FILE: corrupted.ROW} if settings.corruptions else {}
    tables |= {fusing.FILE: fusing.row(settings)} if settings.fusions else {}
    tables |= {tasks.FILE: tasks.ROW} if settings.tasks.on else {}
    return tables | ({"clients.csv": CLIENTS} if settings.client_fraction else {})


def landscape_rows(curve: Curve) -> list[list[str | float]]:
    """Return the rows of a curve in `landscape.csv`, without the round."""
    points = zip(curve.alphas, curve.losses, curve.accuracies, strict=True)
    return [[curve.path, *map(float, point)] for point in points]


def barriers_row(curve: Curve) -> list[str | float]:
    """Return the row of a curve in `barriers.csv`, without the round."""
    numbers = barriers(curve)
    return [curve.path, *(numbers[name] for name in BARRIERS[2:])]
