"""Settings of what a run keeps beside its last model, and of when it ends before its last round."""

from __future__ import annotations

import re
from math import isfinite
from operator import ge, gt, le, lt
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, Field

from fedalign.settings.sections import Section

COMPARISONS = {">=": ge, "<=": le, ">": gt, "<": lt}
CONDITION = re.compile(r"\s*([\w.-]+)\s*(>=|<=|>|<)\s*([-+.\w]+)\s*")
LAST, ALL = "last", "all"


class Condition(NamedTuple):
    """A condition on a metric, such as `test_accuracy >= 0.9`."""

    metric: str
    comparison: str
    number: float

    def holds(self, value: float) -> bool:
        """Return whether a value of the metric satisfies it; NaN never does."""
        return bool(COMPARISONS[self.comparison](value, self.number))

    def __str__(self) -> str:
        return f"{self.metric} {self.comparison} {self.number!r}"


def condition(text: str) -> Condition:
    """Return the condition that a text states; `ValueError` if it states none."""
    if found := CONDITION.fullmatch(text):
        metric, comparison, number = found.groups()
        try:
            value = float(number)
        except ValueError:
            value = float("nan")
        if isfinite(value):
            return Condition(metric, comparison, value)
    raise ValueError(
        f"give a metric, one of {' '.join(COMPARISONS)}, and a number, such as test_accuracy >= 0.9"
    )


def _usual(text: Any) -> Any:
    """Return the one spelling of a condition, so that spellings do not name different runs."""
    return str(condition(text)) if isinstance(text, str) else text


def _kept(value: Any) -> Any:
    """Return what `keep_models` says as a list, or `all`."""
    given = value if isinstance(value, list | tuple) else [value]
    if given == [ALL]:
        return ALL
    for one in given:
        if one != LAST and (type(one) is not int or one < 1):
            raise ValueError(f"{one!r} is no round: give numbers from 1, {LAST}, or {ALL}")
    return list(dict.fromkeys(given))


StopWhen = Annotated[str, BeforeValidator(_usual)]
KeptRounds = Annotated[list[int | str] | str, BeforeValidator(_kept)]


class Patience(Section):
    """How long a run goes on while a metric does not improve."""

    metric: str = Field("test_accuracy", description="a column of metrics.csv")
    rounds: int = Field(
        10, gt=0, description="the run ends so many rounds after the best one, if none was better"
    )
    min_delta: float = Field(
        0.0, ge=0, description="what counts as better is better by more than this"
    )
