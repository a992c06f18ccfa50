"""Settings of corrupted test images."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator

ALL = (
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
)
MOST_SEVERE = 5


def _names(given: Any) -> list[str]:
    """Return names as a list in the order of `ALL`, so that one choice has one spelling."""
    if given in ("none", "all"):
        return list(ALL) if given == "all" else []
    names = given if isinstance(given, list | tuple) else [given]
    if not all(name in ALL for name in names):
        raise ValueError(f"give none, all, or some of {', '.join(ALL)}")
    return sorted(set(names), key=ALL.index)


def _severities(given: Any) -> list[int]:
    """Return numbers as a list, ascending and each of them once."""
    numbers = given if isinstance(given, list | tuple) else [given]
    if not numbers or not all(type(n) is int and 1 <= n <= MOST_SEVERE for n in numbers):
        raise ValueError(f"give a whole number from 1 to {MOST_SEVERE}, or several")
    return sorted(set(numbers))


Corruptions = Annotated[list[str], BeforeValidator(_names)]
Severities = Annotated[list[int], BeforeValidator(_severities)]
