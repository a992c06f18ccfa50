"""Checks of replies: the server trusts no client.

Each check raises `ValueError`, which says in plain words what is wrong and what is allowed.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from math import isfinite, sqrt
from reprlib import repr as short  # a client may write something long
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Message, MetricRecord, RecordDict

from fedalign.messages.copies import records_in
from fedalign.network.arrays import like, record_of, view_of

WEIGHT = "num-examples"
MAX_EXAMPLES = 10**9  # of a client; the sum over a billion clients still fits into 64 bits
Bounds = tuple[float, float]
"""The least and the largest value that is allowed."""
# Of metrics by the end of their names; sums over all clients stay finite.
BOUNDS: dict[str, Bounds] = {"accuracy": (0.0, 1.0), "loss": (-1e6, 1e6), "": (-1e15, 1e15)}
MAX_COUNT = float(1 << 53)  # of an integer buffer: a float64 holds it
MAX_GROWTH = 1e6  # of a buffer in a round, such as of BatchNorm's statistics
VARIANCE = "running_var"  # the end of the names of buffers that are never negative


def metrics_in(content: RecordDict) -> MetricRecord:
    """Return the only record of metrics in a reply: finite numbers, one of them `num-examples`."""
    records = list(records_in(content, MetricRecord).values())
    if len(records) != 1:
        raise ValueError(f"{len(records)} records of metrics came, not one")
    check_numbers(records[0])
    count = records[0].get(WEIGHT)
    if type(count) is not int or not 0 < count <= MAX_EXAMPLES:
        raise ValueError(
            f"{WEIGHT!r} is {short(count)}, not a whole number from 1 to {MAX_EXAMPLES}"
        )
    return records[0]


def check_numbers(metrics: Mapping[str, Any]) -> None:
    """Raise for a metric that is not a finite number, or that nothing of its name can be."""
    for key, value in metrics.items():
        if isinstance(value, list) or not abs(value) <= sys.float_info.max:
            raise ValueError(f"{short(key)} is {short(value)}, not a finite number")
        if key != WEIGHT:
            ends = (bounds for end, bounds in BOUNDS.items() if key.endswith(end))
            check_bounds(key, value, next(ends))


def check_bounds(name: str, value: float, bounds: Bounds) -> None:
    """Raise for a metric outside of its bounds."""
    low, high = bounds
    if not low <= value <= high:
        raise ValueError(f"{short(name)} is {short(value)}, not from {low:g} to {high:g}")


def arrays_in(content: RecordDict, name: str, others: Collection[str] = ()) -> ArrayRecord:
    """Return the record of arrays of this name; beside it a reply may have only `others`."""
    record = content.get(name)
    if not isinstance(record, ArrayRecord):
        found = "is missing" if record is None else f"is a {type(record).__name__}"
        raise ValueError(f"{name!r} {found}, not a record of arrays")
    for key in records_in(content, ArrayRecord):
        if key != name and key not in others:
            raise ValueError(f"arrays came under {short(key)}, where nobody looks for any")
    return record


def check_names(came: ArrayRecord, sent: ArrayRecord) -> None:
    """Raise unless a reply has exactly the arrays that were sent."""
    for name in sent.keys() - came.keys():
        raise ValueError(f"no array {name!r} came")
    for name in came.keys() - sent.keys():
        raise ValueError(f"an array {short(name)} came that was not sent")


def values_of(name: str, array: Array, dtypes: Collection[str]) -> np.ndarray:
    """Return the values of an array, which must have one of these dtypes."""
    if array.dtype not in dtypes:
        raise ValueError(f"{name!r} is {short(array.dtype)}, not {' or '.join(dtypes)}")
    try:
        return view_of(array)
    except ValueError as error:
        raise ValueError(f"{name!r} {error}") from None


def check_as_sent(name: str, array: Array, sent: Array, summed: bool = False) -> None:
    """Raise unless an array has the shape and dtype that it was sent with.

    The mean of integer arrays (`summed`) may be float64.
    """
    whole = not np.issubdtype(np.dtype(sent.dtype), np.floating)
    values = values_of(name, array, [sent.dtype, *(["float64"] if summed and whole else [])])
    if values.shape != sent.shape:
        raise ValueError(f"{name!r} came as {short(values.shape)}, and is {sent.shape}")


def check_left_out(name: str, array: Array, sent: Array) -> None:
    """Raise unless an array is empty, or has the form it was sent in; its values do not count."""
    if tuple(array.shape) != (0,):
        check_as_sent(name, array, sent)


def check_finite(name: str, values: np.ndarray) -> None:
    """Raise for NaN or infinity; a finite product of the values with themselves rules out both."""
    flat = values.ravel("K")
    with np.errstate(all="ignore"):
        if isfinite(np.dot(flat, flat)) or np.isfinite(flat).all():
            return
    raise ValueError(f"{name!r} holds {'NaN' if np.isnan(flat).any() else 'infinity'}")


def check_record(
    came: ArrayRecord, sent: ArrayRecord, most: float | None = None, summed: bool = False
) -> ArrayRecord:
    """Return a model that travels as it is, in the order of `sent`; `most`: see `check_update`."""
    check_names(came, sent)
    for name, before in sent.items():
        check_as_sent(name, came[name], before, summed)
    model = record_of({name: came[name] for name in sent})
    check_update(model, sent, most)
    return model


def check_update(
    model: ArrayRecord,
    sent: ArrayRecord,
    most: float | None = None,
    names: Collection[str] | None = None,
) -> None:
    """Raise if a model is not finite, or moved too far from what was sent.

    Args:
        model: of the shapes and dtypes of `sent`.
        sent: what the client was sent.
        most: the largest L2 norm of its change; None: no limit.
        names: the arrays that the norm is taken over; None: all with floating point.
    """
    squares = 0.0
    for name, array in model.items():
        values = view_of(array)
        if values.dtype.kind != "f" or (names is not None and name not in names):
            check_buffer(name, values, view_of(sent[name]))
            continue
        check_finite(name, values)
        if most is not None:
            with np.errstate(over="ignore"):
                change = (values - view_of(sent[name])).ravel("K")
                squares += float(np.dot(change, change))
    check_norm(sqrt(squares), most)


def check_made(made: ArrayRecord, sent: ArrayRecord) -> ArrayRecord:
    """Return a model that the server has made, in the order and with the dtypes of `sent`.

    Raises:
        ValueError: an array is missing, of another shape, no floating point, or not finite.
    """
    for name in sent.keys() - made.keys():
        raise ValueError(f"it has no array {name!r}")
    for name in made.keys() - sent.keys():
        raise ValueError(f"it has an array {name!r} that the model has not")
    for name, before in sent.items():
        if before.dtype.startswith("float"):
            dtype, shape = made[name].dtype, tuple(made[name].shape)
            if not dtype.startswith("float"):
                raise ValueError(f"{name!r} is {dtype}, not {before.dtype}")
            if shape != tuple(before.shape):
                raise ValueError(f"{name!r} is of shape {shape}, not {tuple(before.shape)}")
    with np.errstate(over="ignore"):  # of a float64 that no float32 holds
        model = like(made, sent)
    for name, array in model.items():
        if array.dtype.startswith("float"):
            check_finite(name, view_of(array))
    return model


def check_buffer(name: str, values: np.ndarray, sent: np.ndarray) -> None:
    """Raise for counters and statistics, which no norm covers, that are out of bounds."""
    if values.dtype.kind in "iu":
        low, high = -MAX_COUNT, MAX_COUNT
    elif values.dtype.kind == "f":
        check_finite(name, values)
        high = MAX_GROWTH * max(1.0, float(np.abs(sent).max(initial=0)))
        low = 0.0 if name.endswith(VARIANCE) else -high
    else:
        return
    if values.size and not (values.min() >= low and values.max() <= high):
        raise ValueError(f"{name!r} holds a number that is not from {low:g} to {high:g}")


def check_norm(norm: float, most: float | None) -> None:
    """Raise if the norm of a change is larger than it may be."""
    if most is not None and not norm <= most:
        raise ValueError(f"moved by {norm:.6g}, and max_update_norm is {most:g}")


def flaw_of(message: Message, reply: Message, most: float | None) -> str | None:
    """Return why the reply of any Flower app cannot be summed; None if it can."""
    sent = message.content.get("arrays")
    try:
        if isinstance(sent, ArrayRecord):
            metrics_in(reply.content)
            check_record(arrays_in(reply.content, "arrays"), sent, most)
    except ValueError as error:
        return str(error)
    return None
