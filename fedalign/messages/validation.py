"""What a reply has to be before anything is made of it, for the server trusts no client.

Each check raises `ValueError` with what is wrong in plain words: names, numbers, what is allowed.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from math import isfinite, sqrt
from reprlib import repr as short  # what a client wrote may be long
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict

from fedalign.network.arrays import view_of

WEIGHT = "num-examples"
MOST_EXAMPLES = 1 << 40  # so that the sum of a million clients' still fits into 64 bits


def metrics_in(content: RecordDict) -> MetricRecord:
    """Return the one record of metrics in a reply: finite numbers, and a number of examples."""
    records = list(content.metric_records.values())
    if len(records) != 1:
        raise ValueError(f"{len(records)} records of metrics came, not one")
    check_numbers(records[0])
    count = records[0].get(WEIGHT)
    if type(count) is not int or not 0 < count <= MOST_EXAMPLES:
        told = f"not a whole number from 1 to {MOST_EXAMPLES}"
        raise ValueError(f"{WEIGHT!r} is {short(count)}, {told}")
    return records[0]


def check_numbers(metrics: Mapping[str, Any]) -> None:
    """Raise for a metric that is not a finite number."""
    for key, value in metrics.items():
        if isinstance(value, list) or not abs(value) <= sys.float_info.max:
            raise ValueError(f"{short(key)} is {short(value)}, not a finite number")


def arrays_in(content: RecordDict, name: str, others: Collection[str] = ()) -> ArrayRecord:
    """Return the record of arrays of this name in a reply, which has `others` at most beside it."""
    record = content.get(name)
    if not isinstance(record, ArrayRecord):
        told = "is missing" if record is None else f"is a {type(record).__name__}"
        raise ValueError(f"{name!r} {told}, not a record of arrays")
    for key in content.array_records:
        if key != name and key not in others:
            raise ValueError(f"arrays came under {short(key)}, where nobody looks for any")
    return record


def check_names(came: ArrayRecord, sent: ArrayRecord) -> None:
    """Raise unless just the arrays came that were sent."""
    for name in sent.keys() - came.keys():
        raise ValueError(f"no array {name!r} came")
    for name in came.keys() - sent.keys():
        raise ValueError(f"an array {short(name)} came that was not sent")


def values_of(name: str, array: Array, dtypes: Collection[str]) -> np.ndarray:
    """Return the values of an array that may have one of these dtypes."""
    if array.dtype not in dtypes:
        raise ValueError(f"{name!r} is {short(array.dtype)}, not {' or '.join(dtypes)}")
    try:
        return view_of(array)
    except ValueError as error:
        raise ValueError(f"{name!r} {error}") from None


def check_as_sent(name: str, array: Array, sent: Array, summed: bool = False) -> None:
    """Raise unless an array has the shape and dtype that it was sent in; means are no integers."""
    whole = not np.issubdtype(np.dtype(sent.dtype), np.floating)
    values = values_of(name, array, [sent.dtype, *(["float64"] if summed and whole else [])])
    if values.shape != sent.shape:
        raise ValueError(f"{name!r} came as {short(values.shape)}, and is {sent.shape}")


def check_finite(name: str, values: np.ndarray) -> None:
    """Raise for NaN or infinity; one product tells that there is none, or that it may be."""
    flat = values.ravel("K")
    with np.errstate(all="ignore"):
        if isfinite(np.dot(flat, flat)) or np.isfinite(flat).all():
            return
    raise ValueError(f"{name!r} holds {'NaN' if np.isnan(flat).any() else 'infinity'}")


def check_record(
    came: ArrayRecord, sent: ArrayRecord, most: float | None = None, summed: bool = False
) -> ArrayRecord:
    """Return a model that travels as it is, in the order in which it was sent; raise if it is not.

    `most` is how far it may have moved, see `check_update`.
    """
    check_names(came, sent)
    for name, before in sent.items():
        check_as_sent(name, came[name], before, summed)
    model = ArrayRecord({name: came[name] for name in sent})
    check_update(model, sent, most)
    return model


def check_update(
    model: ArrayRecord,
    sent: ArrayRecord,
    most: float | None = None,
    names: Collection[str] | None = None,
) -> None:
    """Raise for a model that is not finite, or that moved too far.

    Args:
        model: of the shapes and dtypes of `sent`.
        sent: what the client was sent.
        most: how far it may have moved from there, as an L2 norm; None: as far as it likes.
        names: the arrays that count in it; None: all of floating point.
    """
    squares = 0.0
    for name, array in model.items():
        values = view_of(array)
        if values.dtype.kind != "f":
            continue
        check_finite(name, values)
        if most is not None and (names is None or name in names):
            with np.errstate(over="ignore"):
                change = (values - view_of(sent[name])).ravel("K")
                squares += float(np.dot(change, change))
    check_norm(sqrt(squares), most)


def check_norm(norm: float, most: float | None) -> None:
    """Raise if a model moved further than it may."""
    if most is not None and not norm <= most:
        raise ValueError(f"moved by {norm:.6g}, and max_update_norm is {most:g}")


def flaw_of(message: Message, reply: Message, most: float | None) -> str | None:
    """Return why any app's reply to a message cannot be summed; None if it can."""
    sent = message.content.get("arrays")
    try:
        if isinstance(sent, ArrayRecord):
            metrics_in(reply.content)
            check_record(arrays_in(reply.content, "arrays"), sent, most)
    except ValueError as error:
        return str(error)
    return None
