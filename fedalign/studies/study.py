"""Read a study, the YAML file that says which runs are compared and how, and plan its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from flwr.app import UserConfigValue
from pydantic import ConfigDict, Field

from fedalign.errors import BadValueError, InputError, nearest
from fedalign.report.tables import COLUMNS
from fedalign.settings.builtin import KINDS
from fedalign.settings.config import Config, resolve
from fedalign.settings.layers import flatten, holds, validate
from fedalign.settings.renamed import current_key
from fedalign.settings.sections import Section
from fedalign.settings.sources import combinations, find, parse_choices, read_yaml

Axes = dict[
    str, Annotated[list[UserConfigValue | None], Field(min_length=1)]
]  # values by dotted key


class Arm(Section):
    """One arm of the comparison: settings that override those of the study."""

    model_config = ConfigDict(extra="allow")
    vary: Axes = Field(default_factory=dict, description="other values for an axis of the study")

    def settings(self) -> dict[str, Any]:
        """Return the arm's settings under dotted keys."""
        return flatten(self.model_extra or {})


class Figure(Section):
    """What the study's figure shows."""

    kind: Literal["rounds", "sweep", "differences"] = Field(
        "rounds", description="over rounds, over the key `x`, or differences from the baseline"
    )
    x: str | None = Field(None, description="for a sweep: a key of `vary` with numbers")
    log: bool = Field(False, description="for a sweep: use a logarithmic x axis")
    panels: list[str] | None = Field(
        None, description=f"for a sweep, from: {', '.join(COLUMNS)}; null: the usual ones"
    )


class Study(Section):
    """The runs to compare: every arm under every combination of the varied settings.

    A setting of an arm overrides an axis. An arm that lacks the option of an axis has the same run
    for all its values, a reference line for the others.
    """

    title: str = Field(min_length=1, description="heading of the table")
    base: str = Field(description="a configuration's name or path")
    settings: dict[str, Any] = Field(default_factory=dict, description="override those of `base`")
    vary: Axes = Field(default_factory=dict, description="axes; every combination is run")
    arms: dict[str, Arm] = Field(
        default_factory=dict, description="by label; if empty, one arm named after the strategy"
    )
    baseline: str | None = Field(None, description="the arm that the others are compared with")
    figure: Figure = Figure()
    table: list[str] | None = Field(
        None, description=f"columns, from: {', '.join(COLUMNS)}; null: all measured"
    )


@dataclass(frozen=True)
class Planned:
    """One run of a study: its arm, the value chosen from each axis, and its configuration."""

    arm: str
    chosen: dict[str, Any]
    config: Config


def find_study(name: str) -> Path:
    """Return the file of a study, given by path or by its name in `configs/studies/`."""
    return find(name, "configs/studies")


def read_study(file: Path) -> Study:
    """Return the study in a YAML file; `InputError` names file, place and value."""
    try:
        study = validate(Study, read_yaml(file))
        _check(study)
    except BadValueError as error:
        raise InputError(f"{file}: {error}") from None
    return study


def plan(study: Study, file: Path, words: Sequence[str] = ()) -> list[Planned]:
    """Return all runs of a study, arm by arm, each with its validated configuration.

    Args:
        study: the study.
        file: where it was read from, for errors.
        words: `key=value` settings that override all others and replace an axis of the same key;
            `key=value,value` adds an axis.
    """
    given = _named(parse_choices(words))
    common = {f"{file}: settings": flatten(study.settings)}
    arms = study.arms or {_resolve(study.base, common).strategy.name: Arm()}
    planned: list[Planned] = []
    options: dict[str, Any] = {}
    for label, arm in arms.items():
        own = {f"{file}: arms.{label}": arm.settings()}
        has = flatten(_resolve(study.base, common | own).model_dump())
        _refuse_unknown(arm.vary, study.vary, f"{file}: arms.{label}.vary")
        options |= has
        for chosen in combinations(_named(study.vary) | _named(arm.vary) | given):
            fits = {k: v for k, v in chosen.items() if k in has or current_key(k) in has}
            varied = {f"{file}: vary": {k: v for k, v in fits.items() if k not in given}}
            typed = {"command line": {k: v for k, v in fits.items() if k in given}}
            config = _resolve(study.base, common | varied | own | typed)
            planned.append(Planned(label, chosen, config))
    _refuse_unknown(study.vary, options, f"{file}: vary")
    _refuse_unknown(given, options, "command line")
    return planned


def axes(planned: Sequence[Planned]) -> list[str]:
    """Return the dotted keys, except the seed, that take several values among the runs."""
    keys = dict.fromkeys(key for run in planned for key in run.chosen if key != "seed")
    return [key for key in keys if len({str(run.chosen.get(key)) for run in planned}) > 1]


def _check(study: Study) -> None:
    """Raise `BadValueError` if parts of the study contradict one another."""
    if study.baseline is not None and study.baseline not in study.arms:
        problem = f"{study.baseline!r} is not an arm{nearest(study.baseline, study.arms)}"
        raise BadValueError("baseline", problem)
    if study.figure.kind == "differences" and study.baseline is None:
        raise BadValueError("baseline", "must be given for a figure of differences")
    if study.figure.kind == "sweep":
        _check_sweep(study.figure.x, study.vary, study.figure.log)
    for place, columns in (("table", study.table), ("figure.panels", study.figure.panels)):
        for column in columns or ():
            if column not in COLUMNS:
                raise BadValueError(place, f"{column!r} is not a column{nearest(column, COLUMNS)}")


def _check_sweep(key: str | None, vary: Axes, log: bool) -> None:
    if key is None:
        raise BadValueError("figure.x", "must be given for a sweep")
    if key not in vary:
        raise BadValueError("figure.x", f"{key!r} is not varied{nearest(key, vary)}")
    for value in vary[key]:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadValueError(f"vary.{key}", f"{value!r} is not a number; a sweep needs numbers")
        if log and value <= 0:
            raise BadValueError(f"vary.{key}", f"{value!r} is not above 0, as figure.log needs")


def _resolve(base: str, layers: Mapping[str, Mapping[str, Any]]) -> Config:
    """Return the configuration; `InputError` begins with the layer that has the wrong value."""
    try:
        return resolve(base, *layers.values())
    except BadValueError as error:
        at_fault = [place for place, layer in layers.items() if holds(layer, error.place)]
        raise InputError(f"{[base, *at_fault][-1]}: {error}") from None


def _refuse_unknown(keys: Mapping[str, Any], options: Mapping[str, Any], place: str) -> None:
    for key in _named(keys):
        if key not in options and current_key(key) not in options:
            table = key.rpartition(".")[0]
            beside = [option for option in options if option.rpartition(".")[0] == table]
            raise InputError(f"{place}: {key}: no arm has such a setting{nearest(key, beside)}")


def _named(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings by full key; `strategy` is short for `strategy.name`."""
    return {f"{key}.name" if key in KINDS else key: value for key, value in settings.items()}
