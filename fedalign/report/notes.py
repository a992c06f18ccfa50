"""Say how the numbers of a comparison came about, and what is not in them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from fedalign.errors import FedalignError
from fedalign.report.labels import COMMON, Settings, common, label, varied
from fedalign.report.measures import series
from fedalign.report.reading import Run
from fedalign.report.statistics import UNKNOWN
from fedalign.runs.tables import lower_is_better
from fedalign.settings.builtin import KINDS
from fedalign.settings.layers import flatten
from fedalign.settings.registry import parse

if TYPE_CHECKING:
    from fedalign.report.comparison import Comparison

MAX_VALUES = 6  # of a setting in a note


def method(found: Comparison) -> str:
    """Return in sentences what the numbers of a comparison are."""
    better = "lower" if lower_is_better(found.metric) else "higher"
    said = [
        f"{found.metric} ({better} is better): {found.at.described(found.metric)}.",
        "Mean ± sample standard deviation over n seeds.",
    ]
    if count := sum(d is not None and d.pairs > 1 for d in found.differences):
        same = " with the same other settings" if len({*found.baselines} - {None}) > 1 else ""
        said.append(
            f"Differences are paired by seed, arm minus {found.baseline}{same}: mean ± half the "
            "95 % interval by Student's t (not corrected); p of the paired t test, corrected for "
            f"{count} comparison{'s' * (count > 1)} by Holm's method."
        )
    if any(arm.n < 2 for arm in found.arms):
        said.append(f"{UNKNOWN}: fewer than two seeds, so no deviation and no interval.")
    return " ".join(said)


def notes(runs: Sequence[Run], found: Comparison) -> list[str]:
    """Return lines on what else differs, and on runs that are left out, incomplete or limped."""
    return [*_differing(found), *_seeds(found), *_left_out(runs, found), *_measured(found)]


def _differing(found: Comparison) -> Iterator[str]:
    firsts = [arm.runs[0].counted for arm in found.arms]
    if found.split:
        yield (
            "runs that were to be one arm differ in more than the seed, so arms are split by "
            f"{'; '.join(_values(key, firsts) for key in found.split)}"
        )
    if shared := common([arm.settings for arm in found.arms]):
        yield f"{COMMON}, where an arm names no others: {label(shared)}"
    keys = dict.fromkeys(k for own in varied(firsts) for k in own if k not in found.by)
    if other := [key for key in keys if not all(_is_default(key, own) for own in firsts)]:
        yield f"arms also differ in {'; '.join(_values(key, firsts) for key in other)}"


def _is_default(key: str, arm: Settings) -> bool:
    """Return whether an arm leaves an option of a part as it is, or its part has no such option."""
    place = key.partition(".")[0]
    if key not in arm or place not in KINDS:
        return key not in arm
    try:
        part = parse(KINDS[place], arm[f"{place}.name"], place)
    except FedalignError:  # it is not here, or needs options
        return False
    return bool(flatten({place: part.dump()}).get(key) == arm[key])


def _values(key: str, arms: Sequence[Settings]) -> str:
    """Return a setting with its values in these arms."""
    values = list(dict.fromkeys(str(own[key]) for own in arms if key in own))
    more = ", …" if len(values) > MAX_VALUES else ""
    return f"{key} ({', '.join(values[:MAX_VALUES])}{more})"


def _seeds(found: Comparison) -> Iterator[str]:
    every = {seed for arm in found.arms for seed in arm.values}
    missing: dict[str, list[str]] = {}
    for arm in found.arms:
        if lacks := sorted(every - arm.values.keys()):
            seeds = f"seed{'s' * (len(lacks) > 1)} {', '.join(map(str, lacks))}"
            missing.setdefault(seeds, []).append(arm.label)
    for seeds, labels in missing.items():
        yield f"without {seeds}, which others have: {'; '.join(labels)}"
    pairs = zip(found.arms, found.baselines, strict=True)
    if alone := [arm.label for arm, base in pairs if base is None]:
        yield f"without a baseline that is otherwise set alike: {'; '.join(alone)}"


def _left_out(runs: Sequence[Run], found: Comparison) -> Iterator[str]:
    shown = {id(run): run for arm in found.arms for run in arm.runs}
    for run in runs:
        if run.unfinished:
            yield f"{run.path}: not finished, {run.unfinished}; left out"
        elif id(run) not in shown:
            own = _seed_of(run, found.by)
            twin = next(other for other in shown.values() if _seed_of(other, found.by) == own)
            yield twin_of(run, twin)
        if run.warning:
            yield f"{run.path}: {run.warning}"
    for arm in found.arms:
        for run in arm.runs:
            if run.settings["seed"] not in arm.values:
                yield f"{run.path}: no finite {found.metric} there; left out"


def chosen(run: Run, keys: Sequence[str]) -> Settings:
    """Return these settings of a run, as far as it has them, spelled as its hash counts them."""
    everything = {**run.settings, **run.counted}
    return {key: everything[key] for key in keys if key in everything}


def _seed_of(run: Run, keys: Sequence[str]) -> str:
    return repr((chosen(run, keys), run.settings["seed"]))


def twin_of(run: Run, twin: Run) -> str:
    """Return the line on a run that is left out because another one has its settings and seed."""
    kind = "a copy" if twin.metrics.equals(run.metrics) else "another run"
    return f"{run.path}: {kind} of {twin.path}, whose seed counts once; left out"


def _measured(found: Comparison) -> Iterator[str]:
    """Yield a line for each share of the rounds that count in which the metric was measured."""
    grouped: dict[str, list[str]] = {}
    runs = [run for arm in found.arms for run in arm.runs if run.settings["seed"] in arm.values]
    for run in runs:
        counting = found.at.rounds(series(run, found.metric))
        wanted = found.at.number if found.at.kind == "last" else len(counting)
        if (known := int(counting.notna().sum())) < wanted:
            grouped.setdefault(f"{known} of {wanted}", []).append(str(run.path))
    for share, paths in grouped.items():
        where = "every run" if len(paths) == len(runs) else ", ".join(paths)
        yield f"{found.metric} was measured in {share} rounds that count, in {where}"
