"""Tell truth values from numbers, which pydantic takes for one another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NUMBER_MEANT = "a number is needed, not true or false"


def read_as_number(given: Any, value: Any) -> bool:
    """Return whether `given` holds true or false where the `value` read from it has a number.

    A number may stand for a list of one.
    """
    if isinstance(given, bool):
        one = value[0] if isinstance(value, list) and len(value) == 1 else value
        return type(one) in (int, float)
    if isinstance(given, Mapping) and isinstance(value, Mapping):
        return any(read_as_number(given[key], value[key]) for key in given.keys() & value.keys())
    if isinstance(given, list | tuple) and isinstance(value, list | tuple):
        return any(map(read_as_number, given, value))
    return False
