"""Read a sweep: a configuration whose block `sweep` says which runs are compared, and how."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from flwr.app import UserConfigValue
from pydantic import ConfigDict, Field

from fedalign.errors import BadValueError, InputError, nearest
from fedalign.report.tables import COLUMNS
from fedalign.settings.layers import flatten, validate
from fedalign.settings.sections import Section
from fedalign.settings.sources import find, read_yaml

BLOCK = "sweep"  # its key in a configuration
# What stood at the top of a study's file before a study was a sweep.
FORMER = {"vary", "settings", "arms", "title"}
Axes = dict[
    str, Annotated[list[UserConfigValue | None], Field(min_length=1)]
]  # values by dotted key


class Arm(Section):
    """One arm of the comparison: settings that override those of the file."""

    model_config = ConfigDict(extra="allow")
    grid: Axes = Field(default_factory=dict, description="other values for an axis of the sweep")

    def settings(self) -> dict[str, Any]:
        """Return the arm's settings under dotted keys."""
        return flatten(self.model_extra or {})


class Prepared(Section):
    """A run that is made before all others: `base`, and settings that override it."""

    model_config = ConfigDict(extra="allow")
    base: str | None = Field(None, description="a configuration's name or path")

    def settings(self) -> dict[str, Any]:
        """Return the run's settings under dotted keys."""
        return flatten(self.model_extra or {})


class Figure(Section):
    """What the figure shows."""

    kind: Literal["rounds", "sweep", "differences"] = Field(
        "rounds", description="over rounds, over the key `x`, or differences from the baseline"
    )
    x: str | None = Field(None, description="for kind sweep: a key of `grid` with numbers")
    log: bool = Field(False, description="for kind sweep: use a logarithmic x axis")
    panels: list[str] | None = Field(
        None, description=f"for kind sweep, from: {', '.join(COLUMNS)}; null: the usual ones"
    )


class Sweep(Section):
    """The block `sweep`: which runs there are, and what is written about them.

    Every arm is run under every combination of `grid`, `pairs` and `seeds`. A setting of an arm
    overrides an axis. An arm that lacks the option of an axis has the same run for all its values,
    a reference line for the others.
    """

    title: str | None = Field(None, min_length=1, description="heading; null: the file's name")
    base: str | None = Field(
        None, description="a configuration's name or path, which the file's settings override"
    )
    prepare: dict[str, Prepared] = Field(
        default_factory=dict,
        description="runs that are made first, by the dotted key that is then the path of their "
        "folder in all other runs: `model.weights: {base: …, data.classes: …}` pretrains a model",
    )
    grid: Axes = Field(
        default_factory=dict, description="values by dotted key; every combination is run"
    )
    pairs: Axes = Field(
        default_factory=dict,
        description="values by dotted key that go together: the first of each, the second, …",
    )
    seeds: Annotated[int, Field(gt=0)] | Annotated[list[int], Field(min_length=1)] | None = Field(
        None, description="seeds of each run, or how many, from 0; null: the configuration's"
    )
    arms: dict[str, Arm] = Field(
        default_factory=dict,
        description="settings by label; if empty, the first axis that the figure does not have "
        "on its x axis makes an arm of each value",
    )
    baseline: str | None = Field(None, description="the arm that the others are compared with")
    compared: Annotated[list[str], Field(min_length=1)] = Field(
        default=["accuracy"],
        description="columns in which arms are compared with the baseline; the figure of kind "
        "`differences` and the terminal show the first",
    )
    figure: Figure = Figure()
    table: list[str] | None = Field(
        None, description=f"columns, from: {', '.join(COLUMNS)}; null: all measured"
    )


@dataclass(frozen=True)
class Source:
    """Where a sweep comes from: a file, its ordinary settings, and the block.

    Attributes:
        called: the file as the user named it.
        file: where it is.
        settings: by dotted key, without the block's.
        sweep: the block; empty if the file has none.
    """

    called: str
    file: Path
    settings: Mapping[str, Any]
    sweep: Sweep

    @property
    def title(self) -> str:
        """The heading of the results."""
        return self.sweep.title or self.file.stem


def read_sweep(name: str) -> Source:
    """Return the sweep in a YAML file, or in one of `configs/studies/` or `configs/` by its name.

    Raises:
        InputError: names file, place and value.
    """
    file = find(name, "configs/studies", "configs")
    tree = read_yaml(file)
    block = tree.pop(BLOCK, {})
    if not isinstance(block, dict):
        raise InputError(f"{file}: {BLOCK}: {block!r} is not a table of settings")
    if not block and (former := sorted(FORMER & tree.keys())):
        raise InputError(
            f"{file}: {former[0]}: a study is a sweep now: this stands in the block `{BLOCK}:`, "
            "where `vary` is called `grid`, and the settings of all runs stand outside of it"
        )
    try:
        sweep = validate(Sweep, block)
        _check(sweep)
    except BadValueError as error:
        raise InputError(f"{file}: {BLOCK}.{error}") from None
    return Source(name, file, flatten(tree), sweep)


def _check(sweep: Sweep) -> None:
    """Raise `BadValueError` if parts of the block contradict one another."""
    _check_axes(sweep)
    if sweep.baseline is not None and sweep.arms and sweep.baseline not in sweep.arms:
        problem = f"{sweep.baseline!r} is not an arm{nearest(sweep.baseline, sweep.arms)}"
        raise BadValueError("baseline", problem)
    if sweep.figure.kind == "differences" and sweep.baseline is None:
        raise BadValueError("baseline", "must be given for a figure of differences")
    if sweep.figure.kind == "sweep":
        _check_x(sweep)
    lists = {"table": sweep.table, "compared": sweep.compared, "figure.panels": sweep.figure.panels}
    for place, columns in lists.items():
        for column in columns or ():
            if column not in COLUMNS:
                raise BadValueError(place, f"{column!r} is not a column{nearest(column, COLUMNS)}")


def _check_axes(sweep: Sweep) -> None:
    lengths = {key: len(values) for key, values in sweep.pairs.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{key} has {count}" for key, count in lengths.items())
        raise BadValueError("pairs", f"values that go together must be equally many; {told}")
    for key in sweep.grid.keys() & sweep.pairs.keys():
        raise BadValueError(f"pairs.{key}", "is an axis of the grid too")
    if sweep.seeds is not None and "seed" in sweep.grid | sweep.pairs:
        raise BadValueError("seeds", "the seed is an axis of its own too")


def _check_x(sweep: Sweep) -> None:
    key, axes, log = sweep.figure.x, sweep.grid | sweep.pairs, sweep.figure.log
    if key is None:
        raise BadValueError("figure.x", "must be given for kind sweep")
    if key not in axes:
        raise BadValueError("figure.x", f"{key!r} is not varied{nearest(key, axes)}")
    place = f"{'grid' if key in sweep.grid else 'pairs'}.{key}"
    for value in axes[key]:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise BadValueError(place, f"{value!r} is not a number, which figure.x needs")
        if log and value <= 0:
            raise BadValueError(place, f"{value!r} is not above 0, as figure.log needs")
