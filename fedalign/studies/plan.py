"""Plan the runs of a sweep: each arm under each combination of what varies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from fedalign.errors import BadValueError, InputError, nearest
from fedalign.report.labels import label
from fedalign.settings.builtin import KINDS
from fedalign.settings.config import Config, resolve
from fedalign.settings.layers import flatten, holds
from fedalign.settings.per_client import PLACE as PER_CLIENT
from fedalign.settings.renamed import current_key
from fedalign.settings.sources import parse_choices
from fedalign.studies.sweep import Arm, Axes, Source, Sweep

SEED = "seed"
Point = dict[str, Any]  # a value by dotted key
Meant = dict[tuple[str, str], Any]  # values by key and by how they were written
Layers = Mapping[str, Mapping[str, Any]]  # settings by where they stand


@dataclass(frozen=True)
class Planned:
    """One run of a sweep.

    Attributes:
        arm: its arm.
        chosen: the value chosen from each axis, by dotted key.
        config: its configuration.
        name: arm, values that vary, and seed, as lines about the run have them.
    """

    arm: str
    chosen: Mapping[str, Any]
    config: Config
    name: str = ""


def prepared(source: Source) -> dict[str, Config]:
    """Return the runs that are made before all others, by the key of `sweep.prepare`."""
    found: dict[str, Config] = {}
    for key, run in source.sweep.prepare.items():
        place = f"{source.file}: sweep.prepare.{key}"
        found[key] = _resolve(run.base, {place: run.settings()})
    return found


def plan(
    source: Source, words: Sequence[str] = (), folders: Mapping[str, str] | None = None
) -> list[Planned]:
    """Return all runs of a sweep, arm by arm, each with its validated configuration.

    Args:
        source: the sweep.
        words: `key=value` settings that override all others and replace an axis of the same key;
            `key=value,value` adds an axis.
        folders: of prepared runs, by the key that they are the value of.
    """
    file, sweep, given = source.file, source.sweep, full_keys(parse_choices(words))
    planned: list[Planned] = []
    options: Point = {}
    meant: Meant = {}

    def layers(point: Point, own: Layers) -> Layers:
        varied = {key: value for key, value in point.items() if key not in given}
        typed = {key: value for key, value in point.items() if key in given}
        first = {f"{file}: sweep.prepare": folders or {}, str(file): source.settings}
        return {**first, f"{file}: sweep": varied, **own, "command line": typed}

    for name, arm in (sweep.arms or {"": Arm()}).items():
        place = f"{file}: sweep.arms.{name}"
        own = {place: arm.settings()}
        _refuse_unknown(arm.grid, sweep.grid, f"{place}.grid")
        for point in _points(sweep, arm, given):
            parts = {k: v for k, v in point.items() if k.removesuffix(".name") in KINDS}
            has = flatten(_resolve(sweep.base, layers(parts, own)).model_dump())
            options |= has
            fits = {k: v for k, v in point.items() if _is_in(has, k)}
            config = _resolve(sweep.base, layers(fits, own))
            planned.append(Planned(name, point, config))
            ours = {k: v for k, v in fits.items() if k in given or not holds(own[place], k)}
            meant |= _meant(ours, config)
    for kind in ("grid", "pairs"):
        _refuse_unknown(getattr(sweep, kind), options, f"{file}: sweep.{kind}")
    _refuse_unknown(given, options, "command line")
    planned = _with_arms(_once(planned, meant), sweep)
    arms = dict.fromkeys(run.arm for run in planned)
    if sweep.baseline is not None and sweep.baseline not in arms and not given:
        problem = f"{sweep.baseline!r} is not an arm{nearest(sweep.baseline, arms)}"
        raise InputError(f"{file}: sweep.baseline: {problem}")
    return named(planned)


def named(planned: Sequence[Planned]) -> list[Planned]:
    """Return the runs with names made of what varies among them."""
    keys = [*axes(planned), SEED]
    return [
        replace(
            run,
            name=label({"arm.name": run.arm} | {k: v for k, v in run.chosen.items() if k in keys}),
        )
        for run in planned
    ]


def axes(planned: Sequence[Planned]) -> list[str]:
    """Return the dotted keys, except the seed, that take several values among the runs."""
    keys = dict.fromkeys(key for run in planned for key in run.chosen if key != SEED)
    return [key for key in keys if len({str(run.chosen.get(key)) for run in planned}) > 1]


def _points(sweep: Sweep, arm: Arm, given: Axes) -> list[Point]:
    """Return every combination of the values of all axes; the last axis, the seed, is fastest."""
    seeds = list(range(sweep.seeds)) if isinstance(sweep.seeds, int) else sweep.seeds
    single = full_keys(sweep.grid) | full_keys(arm.grid) | given
    single[SEED] = single.pop(SEED, seeds or [])
    together = {key: values for key, values in full_keys(sweep.pairs).items() if key not in given}
    lists = [[{key: value} for value in values] for key, values in single.items() if values]
    if together:
        tuples = zip(*together.values(), strict=True)
        lists.insert(len(sweep.grid), [dict(zip(together, t, strict=True)) for t in tuples])
    return [{k: v for part in parts for k, v in part.items()} for parts in product(*lists)]


def _meant(chosen: Point, config: Config) -> Meant:
    """Return values as a configuration has them, by key and by how they were written."""
    tree = flatten(config.model_dump())
    return {
        (key, repr(value)): tree[current]
        for key, value in chosen.items()
        if (current := current_key(key)) in tree
    }


def _once(planned: Sequence[Planned], meant: Meant) -> list[Planned]:
    """Return the runs with values as configurations have them, and each combination once.

    So `0.05`, `5e-2` and `"0.050"` are one value.
    """
    found: dict[str, Planned] = {}
    for run in planned:
        chosen = {key: meant.get((key, repr(v)), v) for key, v in run.chosen.items()}
        found.setdefault(f"{run.arm} {chosen}", replace(run, chosen=chosen))
    return list(found.values())


def _with_arms(planned: list[Planned], sweep: Sweep) -> list[Planned]:
    """Return the runs with arms made of their first axis where the sweep names none."""
    if sweep.arms:
        return planned
    first = next((key for key in axes(planned) if key != sweep.figure.x), None)
    if first is None:
        return [replace(run, arm=run.config.strategy.name) for run in planned]
    return [
        replace(
            run,
            arm=label({first: run.chosen[first]}),
            chosen={key: value for key, value in run.chosen.items() if key != first},
        )
        for run in planned
    ]


def _resolve(base: str | None, layers: Layers) -> Config:
    """Return the configuration; `InputError` begins with the layer that has the wrong value."""
    try:
        return resolve(base, *layers.values())
    except BadValueError as error:
        at_fault = [place for place, layer in layers.items() if holds(layer, error.place)]
        raise InputError(f"{[base, *at_fault][-1]}: {error}") from None


def _refuse_unknown(keys: Mapping[str, Any], options: Mapping[str, Any], place: str) -> None:
    for key in full_keys(keys):
        if not _is_in(options, key):
            table = key.rpartition(".")[0]
            beside = [option for option in options if option.rpartition(".")[0] == table]
            raise InputError(f"{place}: {key}: no arm has such a setting{nearest(key, beside)}")


def _is_in(options: Mapping[str, Any], key: str) -> bool:
    """Return whether these are the settings that a key is among; any option may be a client's."""
    return key in options or current_key(key) in options or key.startswith(f"{PER_CLIENT}.")


def full_keys(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by full key; `strategy` is short for `strategy.name`."""
    return {f"{key}.name" if key in KINDS else key: value for key, value in settings.items()}
