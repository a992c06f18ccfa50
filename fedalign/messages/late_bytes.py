"""Lets the sums of Flower's strategies become bytes late, as all of fedalign's arrays do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flwr.serverapp.strategy import strategy_utils

from fedalign.network.arrays import LazyArray, record_of

SUMMING = {"Array": LazyArray, "ArrayRecord": record_of}
"""What Flower's `aggregate_arrayrecords` makes its result with, by its name there."""


@contextmanager
def late_bytes() -> Iterator[None]:
    """Inside, Flower's weighted mean of models holds its values, not the bytes of NumPy files."""
    names: dict[str, Any] = vars(strategy_utils)
    before = {name: names[name] for name in SUMMING if name in names}
    names.update({name: SUMMING[name] for name in before})
    try:
        yield
    finally:
        names.update(before)
