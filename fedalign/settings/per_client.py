"""Clients' own hyper-parameters, `per_client`: a table by option, or a list of rows, one each."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from math import exp, isfinite, log
from typing import Annotated, Any

import numpy as np
from pydantic import PlainValidator

from fedalign.errors import BadValueError, nearest, shortened
from fedalign.rng import rng
from fedalign.settings.coherence import check
from fedalign.settings.registry import Part, options, parse

PLACE = "per_client"
FORMS = (
    "give a table by option, such as {lr: {log_uniform: [1e-4, 1e-2]}}, or a list of rows, one a "
    "client, such as [{lr: 0.01}, {lr: 0.02}]"
)
Given = Mapping[str, Any] | list[Mapping[str, Any]] | None


def _form(given: Any) -> Given:
    """Return what is given, if it has one of the two forms; nothing in it is nothing."""
    rows = given if isinstance(given, list | tuple) else [given]
    if given is not None and not all(isinstance(row, Mapping) for row in rows):
        raise ValueError(FORMS)
    return (list(given) if isinstance(given, list | tuple) else given) or None


PerClient = Annotated[Given, PlainValidator(_form)]


def varied(given: Given) -> list[str]:
    """Return the options in which clients have values of their own."""
    rows = given if isinstance(given, list) else [given or {}]
    return list(dict.fromkeys(key for row in rows for key in row))


def own_part(client: Part, given: Given, number: int, seed: int) -> Part:
    """Return the algorithm of one client, with its own options.

    Args:
        client: the algorithm of all clients.
        given: the setting `per_client`.
        number: of the client.
        seed: of the draws. Each option of each client has a stream of its own, so a value depends
            neither on the number of clients nor on the other options.

    Raises:
        BadValueError: there is no such option, or a client's value is not allowed.
    """
    if not given:
        return client
    own = _of_row(given, number) if isinstance(given, list) else _of_table(given, number, seed)
    known = options("clients", client.name, "client")
    for key in own.keys() - known.keys():
        raise _bad(key, f"client {client.name!r} has no such option{nearest(str(key), known)}")
    required = {key for key, option in known.items() if option.default is ...}
    needed = {key: value for key, value in client.dump().items() if key in required}
    try:
        part = parse("clients", {"name": client.name} | needed | dict(own), "client")
    except BadValueError as error:
        key = error.place.removeprefix("client.")
        raise _bad(key, f"client {number}: {error.message}") from None
    return replace(client, options={**client.options, **{key: part.options[key] for key in own}})


def check_clients(strategy: Part, client: Part, given: Given, clients: int, seed: int) -> None:
    """Raise `BadValueError` for an option that clients may not have of their own, or its value."""
    _check_count(given, clients)
    own = varied(given)
    if "private" in own:
        raise _bad("private", "all clients keep the same tensors to themselves: client.private")
    for number in range(clients):
        part = own_part(client, given, number, seed)
        try:
            check(strategy, part, own)
        except BadValueError as error:
            key = error.place.removeprefix("client.")
            raise _bad(key, f"client {number}: {error.message}") if key in own else error from None


def _check_count(given: Given, clients: int) -> None:
    """Raise `BadValueError` unless every list has one entry for each client."""
    if isinstance(given, list) and len(given) != clients:
        raise BadValueError(PLACE, f"{len(given)} rows for {clients} clients; give each client one")
    for key, values in given.items() if isinstance(given, Mapping) else ():
        if isinstance(values, list | tuple) and len(values) != clients:
            reason = f"{len(values)} values for {clients} clients; give each client one"
            raise _bad(key, f"{reason}, or {{choice: [...]}} to draw them")


def _of_row(rows: list[Mapping[str, Any]], number: int) -> Mapping[str, Any]:
    if number >= len(rows):
        raise BadValueError(PLACE, f"there is no row for client {number}, only {len(rows)} rows")
    return rows[number]


def _of_table(table: Mapping[str, Any], number: int, seed: int) -> dict[str, Any]:
    return {key: _value(key, how, number, seed) for key, how in table.items()}


def _value(key: str, how: Any, number: int, seed: int) -> Any:
    """Return one client's value of an option: of a list its own, else a draw."""
    if isinstance(how, list | tuple):
        if number >= len(how):
            raise _bad(key, f"there is no value for client {number}, only {len(how)} values")
        return how[number]
    kinds = list(how) if isinstance(how, Mapping) else []
    if len(kinds) != 1 or kinds[0] not in DRAWS:
        reason = f"{shortened(repr(how), 100)} is not allowed: give one of {', '.join(DRAWS)}"
        raise _bad(key, f"{reason}, such as {{uniform: [0, 1]}}, or a list of values")
    (kind,) = kinds
    try:
        return DRAWS[kind](rng(seed, PLACE, key, number), how[kind])
    except ValueError as error:
        reason = f"{kind}: {shortened(repr(how[kind]), 100)} is not allowed: {error}"
        raise _bad(key, reason) from None


def _bounds(given: Any) -> tuple[float, float]:
    """Return the two ends of a range; `ValueError` if it is none."""
    if isinstance(given, list | tuple) and len(given) == 2:
        low, high = given
        numbers = all(type(end) in (int, float) and isfinite(end) for end in given)
        if numbers and low <= high:
            return low, high
    raise ValueError("give the least and the largest value, such as [0, 1]")


def _uniform(stream: np.random.Generator, given: Any) -> float:
    low, high = _bounds(given)
    return float(stream.uniform(low, high))


def _log_uniform(stream: np.random.Generator, given: Any) -> float:
    low, high = _bounds(given)
    if low <= 0:
        raise ValueError("both ends must be above 0")
    value = float(f"{exp(stream.uniform(log(low), log(high))):.12g}")  # alike on all machines
    return min(max(value, low), high)


def _int_uniform(stream: np.random.Generator, given: Any) -> int:
    low, high = _bounds(given)
    if not (isinstance(low, int) and isinstance(high, int)):
        raise ValueError("both ends must be whole numbers; both are among the values")
    return int(stream.integers(low, high, endpoint=True))


def _choice(stream: np.random.Generator, given: Any) -> Any:
    if not isinstance(given, list | tuple) or not given:
        raise ValueError("give a list of values, such as [1, 2, 4]")
    return given[int(stream.integers(len(given)))]


DRAWS: dict[str, Callable[[np.random.Generator, Any], Any]] = {
    "uniform": _uniform,
    "log_uniform": _log_uniform,
    "int_uniform": _int_uniform,
    "choice": _choice,
}


def _bad(key: str, reason: str) -> BadValueError:
    return BadValueError(PLACE, f"{key}: {reason}")


def told(values: Mapping[str, Sequence[Any]]) -> str:
    """Return in a few words which values clients have of each option: `lr 0.001 to 0.01`."""
    return ", ".join(f"{key} {_spread(own)}" for key, own in values.items())


def _spread(values: Sequence[Any]) -> str:
    if all(type(value) in (int, float) for value in values):
        return f"{min(values):.3g} to {max(values):.3g}"
    distinct = dict.fromkeys(as_text(value) for value in values)
    return shortened(" | ".join(distinct), 100)


def as_text(value: Any) -> str:
    """Return a value as it stands in a cell of `client_settings.csv`."""
    if isinstance(value, Part):
        value = value.dump()
    return value if isinstance(value, str) else json.dumps(value)
