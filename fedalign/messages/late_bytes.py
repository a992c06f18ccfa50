"""Lets the sums of Flower's strategies become bytes late, as all of fedalign's arrays do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from flwr.app import ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy import fedavg, strategy_utils

from fedalign.messages.copies import records_in
from fedalign.network.arrays import LazyArray, record_of

_mean = strategy_utils.aggregate_arrayrecords


def mean_of(records: list[RecordDict], weight: str) -> ArrayRecord:
    """Return Flower's weighted mean of models; of a single one its own arrays: the same bits.

    They may never have left the GPU on which all clients of the round were summed.
    """
    if len(records) == 1:
        models = list(records_in(records[0], ArrayRecord).values())
        metrics = list(records_in(records[0], MetricRecord).values())
        if len(models) == 1 and metrics and metrics[0].get(weight):
            return record_of(models[0])
    return _mean(records, weight)


REPLACED: list[tuple[Any, str, Any]] = [
    (strategy_utils, "Array", LazyArray),
    (strategy_utils, "ArrayRecord", record_of),
    (fedavg, "aggregate_arrayrecords", mean_of),
]
"""What Flower's strategies make their mean with: the module, the name there, and ours."""


@contextmanager
def late_bytes() -> Iterator[None]:
    """Inside, Flower's weighted mean of models holds its values, not the bytes of NumPy files."""
    there = [(vars(module), name, own) for module, name, own in REPLACED if name in vars(module)]
    before = [(names, name, names[name]) for names, name, _ in there]
    for names, name, own in there:
        names[name] = own
    try:
        yield
    finally:
        for names, name, own in before:
            names[name] = own
