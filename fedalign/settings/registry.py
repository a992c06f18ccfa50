"""Parts by name: built in, from another package's entry points, or `package.module:Name`.

A part is a class or a function whose annotated parameters are its options, checked here by
pydantic. What else is expected of it stands in `contracts`.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from math import isfinite
from pathlib import Path
from typing import Any, Literal, overload

from flwr.serverapp.strategy import Strategy
from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_jsonable_python

from fedalign.errors import (
    BadValueError,
    FedalignError,
    InputError,
    named,
    nearest,
    shortened,
)
from fedalign.settings.booleans import NUMBER_MEANT, read_as_number
from fedalign.settings.builtin import BUILTIN, PLACES, SINGULAR
from fedalign.settings.client_contracts import ClientTraits
from fedalign.settings.common import common_at
from fedalign.settings.conformance import CONTRACTS, faults
from fedalign.settings.contracts import StrategyTraits
from fedalign.settings.foreign import translated
from fedalign.settings.result_contracts import FusionTraits
from fedalign.settings.signatures import Option, options_of

HOME = Path(__file__).resolve().parents[2]
Traits = StrategyTraits | ClientTraits | FusionTraits
TRAITS: dict[str, type[Traits]] = {
    "strategies": StrategyTraits,
    "clients": ClientTraits,
    "fusions": FusionTraits,
}
FOLDERS = ("strategies", "clients", "partitions")
BRANCHES = {"bool", "float", "int", "str"}  # what pydantic calls the branches of a union,
NAMED_BRANCHES = ("literal[", "constrained-")  # and how other such names begin


class ShadowedFolderError(FedalignError):
    """Another package called `strategies`, `clients` or `partitions` hides fedalign's own."""


@dataclass(frozen=True)
class Part:
    """A named part with its checked options, ready to be built."""

    kind: str
    name: str
    options: Mapping[str, Any]

    def build(self, **arguments: Any) -> Any:
        """Return the built part; it receives those of the arguments that its constructor has.

        Raises:
            InputError: a function returned something that is not a part of this kind.
        """
        target, known = load(self.kind, self.name), options(self.kind, self.name)
        contract, asked = CONTRACTS[self.kind], inspect.signature(target).parameters
        given = {
            key: value.build(**arguments) if known[key].annotation is Strategy else value
            for key, value in self.options.items()
            if key in known
        }
        by_name = asked.keys() & (contract.arguments | contract.untouched)
        place = f"{SINGULAR[self.kind]}: {self.name!r}"
        with named(place):
            try:
                built = target(
                    **given, **{key: arguments[key] for key in by_name & arguments.keys()}
                )
            except ValueError as error:  # what a constructor says of its options
                raise InputError(f"{place}: {shortened(str(error))}") from error
        if not isinstance(target, type):
            _check(self.kind, self.name, built)
        return built

    def dump(self) -> dict[str, Any]:
        """Return the part as it stands in a YAML file: its name, then its options."""
        return {"name": self.name} | {
            key: value.dump() if isinstance(value, Part) else to_jsonable_python(value)
            for key, value in self.options.items()
        }


def names(kind: str) -> list[str]:
    """Return the names of all parts of a kind: built in first, then those of entry points."""
    plugins = sorted(_plugins(kind, tuple(sys.path)).keys() - BUILTIN[kind].keys())
    return [*BUILTIN[kind], *plugins]


def load(kind: str, name: str) -> Callable[..., Any]:
    """Return the class or function behind a name.

    Raises:
        InputError: no part of this kind has the name, or what has it breaks the kind's contract.
    """
    found = reference(kind, name)
    if found is None:
        raise InputError(f"{name!r} is not a {SINGULAR[kind]}{_hint(kind, name)}")
    target = import_part(found)
    if isinstance(target, type):
        _check_class(kind, name, target)
    return target


def options(kind: str, name: str, place: str = "") -> dict[str, Option]:
    """Return the options of a part, in the order of its signature; first those of its place."""
    return common_at(place) | _options(kind, name, load(kind, name))


@overload
def traits(kind: Literal["strategies"], name: str) -> StrategyTraits: ...
@overload
def traits(kind: Literal["clients"], name: str) -> ClientTraits: ...
@overload
def traits(kind: Literal["fusions"], name: str) -> FusionTraits: ...
def traits(kind: Literal["strategies", "clients", "fusions"], name: str) -> Traits:
    """Return what a part declares about itself."""
    target, described = load(kind, name), TRAITS[kind]
    known = [field.name for field in fields(described) if hasattr(target, field.name)]
    return described(**{key: getattr(target, key) for key in known})


def parse(kind: str, raw: Any, place: str) -> Part:
    """Return the part that a section of a configuration describes, defaults filled in.

    Args:
        kind: of the part.
        raw: a name, or a table of a name and options.
        place: where the section stands, for errors.

    Raises:
        BadValueError: unknown name, unknown option, or a value that its option does not allow.
    """
    section = {"name": raw} if isinstance(raw, str) else raw
    if not isinstance(section, Mapping) or not isinstance(section.get("name"), str):
        raise BadValueError(place, f"{raw!r} is not a name, or a table with a name")
    name = section["name"]
    try:
        known = options(kind, name, place)
    except InputError as error:
        raise BadValueError(f"{place}.name", str(error)) from None
    for key in section:
        if key in CONTRACTS[kind].arguments and key not in known:
            raise BadValueError(f"{place}.{key}", "cannot be set: fedalign itself gives the value")
        if key != "name" and key not in known:
            hint = translated(str(key)) or nearest(str(key), known)
            raise BadValueError(f"{place}.{key}", f"{name!r} has no such option{hint}")
    return Part(kind, name, {key: _value(known[key], section, key, place) for key in known})


def explain(error: ValidationError) -> str:
    """Return pydantic's first complaint in one line: the value, then what is allowed.

    Of a union such as `"auto" | int` every branch complains, and so every one is named.
    """
    first, place = error.errors()[0], error_path(error.errors()[0]["loc"])
    if first["type"] == "missing":
        return "must be given"
    complaints = [e["msg"] for e in error.errors() if error_path(e["loc"]) == place]
    allowed = [text.removeprefix("Value error, ") for text in dict.fromkeys(complaints)]
    allowed = [text[0].lower() + text[1:] for text in allowed]
    return f"{shortened(repr(first['input']), 100)} is not allowed: {', or '.join(allowed)}"


def error_path(steps: Sequence[int | str]) -> tuple[str, ...]:
    """Return the way to a setting in an error of pydantic, without the branches of unions."""
    names = map(str, steps)
    return tuple(n for n in names if n not in BRANCHES and not n.startswith(NAMED_BRANCHES))


@cache
def import_part(reference: str) -> Callable[..., Any]:
    """Return what a `package.module:Name` refers to, whatever it is; `InputError` if nothing."""
    module, _, name = reference.partition(":")
    folder = module.partition(".")[0]
    if folder in FOLDERS:
        _check_own(folder)
    with named(f"{reference!r} cannot be imported"):
        try:
            target = getattr(import_module(module), name)
        except (ImportError, AttributeError, ValueError) as error:
            raise InputError(f"{reference!r} cannot be imported: {error}") from error
    if not callable(target):
        raise InputError(f"{reference!r} is {target!r}, not a class or function")
    return target  # type: ignore[no-any-return]


def reference(kind: str, name: str) -> str | None:
    """Return the `package.module:Name` of a part; None if there is no such part."""
    if name in BUILTIN[kind]:
        return BUILTIN[kind][name]
    plugins = _plugins(kind, tuple(sys.path))
    return plugins.get(name, name if ":" in name else None)


@cache
def _plugins(kind: str, path: tuple[str, ...]) -> dict[str, str]:  # noqa: ARG001
    """Return the references of entry points by name; looking through `sys.path` takes 10 ms."""
    found = tuple(entry_points(group=f"fedalign.{kind}"))
    return {point.name: point.value for point in reversed(found)}  # the first of a name counts


def _hint(kind: str, name: str) -> str:
    """Return the end of the error for a name: where it is one, or what else there is."""
    own = "; your own: a 'package.module:Name' that Python can import"
    short = name.rpartition(".")[2].lower()
    if short in names(kind):
        return f"; did you mean {short!r}?"
    for place, other in PLACES.items():
        if short in names(other):
            return f" but a {SINGULAR[other]}: {place}={short} ({', '.join(names(kind))}){own}"
    known = names(kind)
    if hint := translated(name):
        return f"{hint} ({', '.join(known)}){own}"
    elsewhere = {other: f"{place}={other}" for place, k in PLACES.items() for other in names(k)}
    close = get_close_matches(name, [*known, *elsewhere], n=1)
    if close and close[0] not in known:
        return f"; did you mean {elsewhere[close[0]]}? ({', '.join(known)}){own}"
    return nearest(name, known) + own


@cache
def _options(kind: str, called: str, target: Callable[..., Any]) -> dict[str, Option]:
    return options_of(kind, called, target)


@cache
def _check_class(kind: str, called: str, target: type) -> None:
    """Check a class once, however often its part is loaded."""
    _check(kind, called, target)


def _check(kind: str, called: str, part: Any) -> None:
    for fault in faults(kind, part):
        raise InputError(f"{called!r}: {fault}")


def _value(option: Option, section: Mapping[str, Any], key: str, place: str) -> Any:
    if key not in section and option.default is ...:
        raise BadValueError(f"{place}.{key}", "must be given")
    if option.nested:
        given = section.get(key, option.default)
        if isinstance(given, Mapping) and isinstance(option.default, str):
            given = {"name": option.default} | dict(given)
        return parse(option.nested, given, f"{place}.{key}")
    if key not in section:
        return option.default
    try:
        value = TypeAdapter(option.annotation).validate_python(section[key])
    except ValidationError as error:
        inner = [
            s for s in error_path(error.errors()[0]["loc"]) if isinstance(section[key], Mapping)
        ]
        raise BadValueError(".".join([place, key, *inner]), explain(error)) from None
    if read_as_number(section[key], value):
        raise BadValueError(f"{place}.{key}", f"{section[key]!r} is not allowed: {NUMBER_MEANT}")
    if not _is_finite(value):
        raise BadValueError(f"{place}.{key}", f"{section[key]!r} is not a finite number")
    return value


def _is_finite(value: Any) -> bool:
    """Return whether no number in an option's value is infinite or NaN."""
    if isinstance(value, Mapping):
        return all(map(_is_finite, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or isfinite(value)


def _check_own(folder: str) -> None:
    found = Path(next(iter(import_module(folder).__path__))).resolve()
    if found != HOME / folder:
        raise ShadowedFolderError(
            f"fedalign needs its own package {folder!r} from {HOME}, but Python found {found}; "
            f"rename that folder, or start from another directory"
        )
