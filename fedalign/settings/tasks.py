"""Settings of evaluation tasks: data sets by which the body of a model is judged."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from reprlib import repr as short
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from fedalign.errors import BadValueError, nearest
from fedalign.settings.registry import Part, options, parse, traits
from fedalign.settings.section import Section

PLACE = "evaluation.tasks"
NAME = re.compile(r"[\w.:/-]+")


def _on(given: Any) -> dict[str, Part | None]:
    """Return data sets by name; None for a task of the run's own data, which a list names."""
    if isinstance(given, str):
        given = [given]
    if not isinstance(given, Sequence | Mapping):
        raise ValueError("give a list of names, or a table of data sets")
    for name in given:
        if not isinstance(name, str) or not NAME.fullmatch(name):
            raise ValueError(f"the name {short(name)} may hold letters, digits and . : / _ - only")
    if isinstance(given, Sequence):
        if len(set(given)) < len(given):
            raise BadValueError(f"{PLACE}.on", f"{given!r} names a task twice")
        given = dict.fromkeys(given)
    return {name: _data(raw, f"{PLACE}.on.{name}") for name, raw in given.items()}


def _data(raw: Any, place: str) -> Part | None:
    return raw if raw is None or isinstance(raw, Part) else parse("datasets", raw, place)


def _dumped(on: Mapping[str, Part | None]) -> dict[str, Any]:
    return {name: part and part.dump() for name, part in on.items()}


class Tasks(Section):
    """Data sets by which the model's body is judged after a round."""

    on: Annotated[dict[str, Part | None], BeforeValidator(_on), PlainSerializer(_dumped)] = Field(
        default={},
        description="the tasks: a list of those that the run's own data set knows, or a table of "
        "data sets by names of your own; none: nothing is measured",
        json_schema_extra={"allowed": "[NAME, …] or {NAME: a data set, …}"},
    )
    unseen: list[str] | None = Field(
        None,
        description="the tasks that no client trains on; null: those that are no part of the "
        "run's own data",
    )
    ways: list[Literal["probe", "finetune"]] = Field(
        default=["probe", "finetune"],
        min_length=1,
        description="probe: logistic regression on the features of the body, which stays as it "
        "is; finetune: the body and a new head train, as clients do",
        json_schema_extra={"allowed": "probe, finetune"},
    )
    every: int = Field(
        1, ge=1, description="measure in every n-th round, at the start, and in the last one"
    )
    examples: int | None = Field(
        500,
        ge=10,
        description="number of training examples of each task, drawn by the seed; null: all",
    )
    test_examples: int | None = Field(
        None, gt=0, description="number of test examples of each task; null: all"
    )
    l2: float | None = Field(
        None,
        gt=0,
        description="weight of the L2 norm in probing; null: chosen on a fifth of the training "
        "examples",
    )
    finetune: dict[str, Any] = Field(
        default={},
        description="options of the client algorithm that are different in fine-tuning, such as "
        "{epochs: 3, lr: 0.01}; with a name, of another client algorithm",
        json_schema_extra={"allowed": "options of the clients"},
    )

    @model_validator(mode="after")
    def _known(self) -> Tasks:
        for name in self.unseen or ():
            if name not in self.on:
                problem = f"{name!r} is not in {PLACE}.on{nearest(name, list(self.on))}"
                raise BadValueError(f"{PLACE}.unseen", problem)
        return self

    @property
    def tunes(self) -> bool:
        """Whether anything is fine-tuned."""
        return bool(self.on) and "finetune" in self.ways


def tuned(settings: Tasks, client: Part) -> Part:
    """Return the client algorithm that fine-tunes, in a run with this client.

    Raises:
        BadValueError: it has no such option, or makes no sense without its strategy.
    """
    given, place = settings.finetune, f"{PLACE}.finetune"
    name = given.get("name", client.name)
    own = {k: v for k, v in client.dump().items() if k in options("clients", client.name)}
    usual = own if name == client.name else {}
    part = parse("clients", {"name": name} | usual | given, place)
    if half := traits("clients", name).other_half:
        raise BadValueError(
            f"{place}.name",
            f"{name!r} needs the strategy {half!r}, and a task is trained on alone: give a client "
            "algorithm that needs none, such as local",
        )
    return part
