"""Settings of corrupted test images."""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field

Corruption = Literal[
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "gaussian_blur",
    "elastic_transform",
    "brightness",
    "contrast",
    "pixelate",
    "jpeg_compression",
    "rotation",
]
ALL: tuple[str, ...] = get_args(Corruption)


def _listed(given: Any) -> Any:
    """Return names as a list in the order of `ALL`, so that one choice has one spelling."""
    if given in ("none", "all"):
        return list(ALL) if given == "all" else []
    names = given if isinstance(given, list | tuple) else [given]
    return sorted(dict.fromkeys(names), key=lambda name: ALL.index(name) if name in ALL else -1)


def _ascending(given: Any) -> Any:
    """Return numbers as a list without repetitions."""
    numbers = given if isinstance(given, list | tuple) else [given]
    return sorted(dict.fromkeys(numbers)) if all(type(n) is int for n in numbers) else numbers


Corruptions = Annotated[list[Corruption], BeforeValidator(_listed)]
Severities = Annotated[
    list[Annotated[int, Field(ge=1, le=5)]], Field(min_length=1), BeforeValidator(_ascending)
]
