"""Draw runs, by the name of the figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.figure import Figure

from fedalign.errors import InputError, nearest
from fedalign.federation.federation import Federation
from fedalign.report.comparison import Comparison, compare
from fedalign.report.curves import over_bytes, over_rounds
from fedalign.report.differences import from_baseline
from fedalign.report.partition import counts_of, picture
from fedalign.report.planes import maps, one_each
from fedalign.report.reading import Run
from fedalign.report.soup_figures import gain, ingredients_and_fusions
from fedalign.report.spread import between_clients, over_clients
from fedalign.report.tables import Row
from fedalign.report.tasks import over_tasks
from fedalign.settings.config import read

ANY = "seconds"  # a metric that every run has, where a figure shows none


@dataclass(frozen=True)
class Kind:
    """A figure: how it is drawn, what it shows in words, and its metric unless another is given."""

    draw: Callable[[Comparison], Figure]
    what: str
    metric: str = ANY


def _planes(found: Comparison) -> Figure:
    return maps(one_each([Row(arm.label, arm.runs) for arm in found.arms]))


def _partition(found: Comparison) -> Figure:
    runs = [run for arm in found.arms for run in arm.runs]
    splits = {repr(_split(run)): run for run in runs}
    if len(splits) > 1:
        raise InputError(f"partition: these runs have {len(splits)} different ones; give one run")
    file = str(runs[0].path / "config.yaml")
    return picture(counts_of(Federation(read(file, {"device": "cpu"}))))


def _split(run: Run) -> list[tuple[str, object]]:
    """Return the settings that decide who has what."""
    parts = ("seed", "num_clients", "data.", "partition.", "evaluation.holdout")
    return sorted((key, str(run.settings[key])) for key in run.settings if key.startswith(parts))


KINDS = {
    "curves": Kind(over_rounds, "a metric over rounds", "test_accuracy"),
    "bytes": Kind(over_bytes, "a metric over the bytes sent", "test_accuracy"),
    "barriers": Kind(over_rounds, "the barrier over rounds", "client_accuracy_barrier"),
    "differences": Kind(from_baseline, "differences from the baseline", "test_accuracy"),
    "lines": Kind(between_clients, "accuracy between two clients' models, round by round"),
    "planes": Kind(_planes, "accuracy in a plane through two clients' models and their start"),
    "clients": Kind(over_clients, "accuracy of each client"),
    "fusions": Kind(ingredients_and_fusions, "accuracy of ingredients against fusions"),
    "gain": Kind(gain, "what fusing gains, by the barrier", "client_accuracy_barrier"),
    "tasks": Kind(over_tasks, "seen and unseen tasks over rounds"),
    "partition": Kind(_partition, "which client has what"),
}


def draw(
    kind: str,
    runs: Sequence[Run],
    by: str | Sequence[str] = (),
    metric: str | None = None,
    at: str = "last5",
    baseline: str | None = None,
) -> tuple[Figure, Comparison]:
    """Return a figure of runs, and the comparison that it shows.

    Args:
        kind: one of `KINDS`.
        runs: finished runs.
        by: as for `compare`, as are those that follow.
        metric: None: the kind's own.
        at: rounds that count, in `differences`.
        baseline: the arm that is black.

    Raises:
        InputError: there is no such kind, or the runs have not measured what it shows.
    """
    if kind not in KINDS:
        raise InputError(f"{kind!r} is not a figure{nearest(kind, KINDS)}")
    own = KINDS[kind].metric
    found = compare(runs, by, metric or own, "mean" if own == ANY else at, baseline)
    return KINDS[kind].draw(found), found
