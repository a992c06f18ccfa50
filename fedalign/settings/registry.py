"""Parts by name: built in, from another package's entry points, or `package.module:Name`.

A part is a plain class or function. Its annotated parameters are its options, checked here by
pydantic; parameters named in `HANDED` are what fedalign itself hands over when it builds the part.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, is_dataclass
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

from flwr.serverapp.strategy import Strategy
from pydantic import TypeAdapter, ValidationError

from fedalign.errors import FedalignError, InputError
from fedalign.settings.builtin import BUILTIN, SINGULAR

HOME = Path(__file__).resolve().parents[2]
FOLDERS = ("strategies", "clients", "partitions")

# fedalign draws each round's clients itself, so a Flower strategy takes all the nodes it is shown.
FLOWER_SAMPLING: dict[str, float] = {
    "fraction_train": 1.0,
    "fraction_evaluate": 1.0,
    "min_train_nodes": 1,
    "min_evaluate_nodes": 1,
    "min_available_nodes": 1,
}
RECORD_KEYS = {"weighted_by_key", "arrayrecord_key", "configrecord_key"}
OWN = {"shape", "classes", "layout", "symmetry", "initial", "seed"}
OWN |= {"num_clients", "num_sampled_clients"}
HANDED = {*OWN, "accountant", *FLOWER_SAMPLING, *RECORD_KEYS}


class ShadowedFolderError(FedalignError):
    """Another package called `strategies`, `clients` or `partitions` hides fedalign's own."""


class BadValueError(InputError):
    """A setting that is not allowed, and the dotted place where it stands."""

    def __init__(self, place: str, message: str):
        super().__init__(f"{place}: {message}")
        self.place, self.message = place, message


@dataclass(frozen=True)
class Option:
    """One option of a part: its type with constraints, and its default (`...` when required)."""

    annotation: Any
    default: Any
    nested: str | None = None  # the kind of part this option holds: a wrapped strategy is built,
    # and what is annotated `Annotated[Part | str, kind]` handed over by its name and options


@dataclass(frozen=True)
class Part:
    """A named part with its checked options, ready to be built."""

    kind: str
    name: str
    options: Mapping[str, Any]

    def build(self, **handed: Any) -> Any:
        """Return the built part; of `handed` it gets the arguments that it asks for by name."""
        target = load(self.kind, self.name)
        asked, known = inspect.signature(target).parameters, options(self.kind, self.name)
        given = {
            key: value.build(**handed) if known[key].annotation is Strategy else value
            for key, value in self.options.items()
        }
        return target(**given, **{key: value for key, value in handed.items() if key in asked})

    def dump(self) -> dict[str, Any]:
        """Return the part as it stands in a YAML file: its name, then its options."""
        return {"name": self.name} | {
            key: value.dump() if isinstance(value, Part) else value
            for key, value in self.options.items()
        }


def names(kind: str) -> list[str]:
    """Return the names of all parts of a kind: built in first, then those of entry points."""
    plugins = sorted(point.name for point in entry_points(group=f"fedalign.{kind}"))
    return [*BUILTIN[kind], *(name for name in plugins if name not in BUILTIN[kind])]


def load(kind: str, name: str) -> Callable[..., Any]:
    """Return the class or function behind a name; raises `InputError` for a name nobody has."""
    if name in BUILTIN[kind]:
        return _load(BUILTIN[kind][name])
    for point in entry_points(group=f"fedalign.{kind}", name=name):
        return _load(point.value)
    if ":" in name:
        return _load(name)
    raise InputError(
        f"{name!r} is not a {SINGULAR[kind]}{nearest(name, names(kind))}; "
        "your own: a 'package.module:Name' that Python can import"
    )


def options(kind: str, name: str) -> dict[str, Option]:
    """Return the options of a part, in the order of its signature."""
    return _options(load(kind, name))


def parse(kind: str, raw: Mapping[str, Any], place: str) -> Part:
    """Return the part that a section of a configuration describes, defaults filled in.

    Raises `BadValueError` with the dotted place for an unknown name, an unknown option or a value
    that its option does not allow.
    """
    name = str(raw["name"])
    try:
        known = options(kind, name)
    except InputError as error:
        raise BadValueError(f"{place}.name", str(error)) from None
    for key in raw:
        if key != "name" and key not in known:
            raise BadValueError(
                f"{place}.{key}", f"{name!r} has no such option{nearest(key, known)}"
            )
    return Part(kind, name, {key: _value(option, raw, key, place) for key, option in known.items()})


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the end of an error message: the likeliest name, then all of them."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1)
    guess = f"; did you mean {close[0]!r}?" if close else ""
    return f"{guess} ({', '.join(known) or 'none'})"


def explain(error: ValidationError) -> str:
    """Return pydantic's first complaint in one line: the value, then what is allowed."""
    first = error.errors()[0]
    if first["type"] == "missing":
        return "must be given"
    allowed = first["msg"].removeprefix("Value error, ")
    return f"{first['input']!r} is not allowed: {allowed[0].lower()}{allowed[1:]}"


def _value(option: Option, raw: Mapping[str, Any], key: str, place: str) -> Any:
    if option.nested:
        given = raw.get(key, option.default)
        section = {"name": given} if isinstance(given, str) else given
        return parse(option.nested, section, f"{place}.{key}")
    if key not in raw:
        if option.default is ...:
            raise BadValueError(f"{place}.{key}", "must be given")
        return option.default
    try:
        return TypeAdapter(option.annotation).validate_python(raw[key])
    except ValidationError as error:
        raise BadValueError(f"{place}.{key}", explain(error)) from None


def _options(target: Callable[..., Any]) -> dict[str, Option]:
    from_init = inspect.isclass(target) and not is_dataclass(target)
    hints = get_type_hints(target.__init__ if from_init else target, include_extras=True)
    found = {}
    for key, parameter in inspect.signature(target).parameters.items():
        default = ... if parameter.default is parameter.empty else parameter.default
        if key in HANDED or _is_callback(hints.get(key)):
            continue
        if hints.get(key) is Strategy:
            found[key] = Option(Strategy, "fedavg", nested="strategies")
        elif (kind := _told_kind(hints.get(key))) is not None:
            found[key] = Option(Part, default, nested=kind)
        else:
            found[key] = Option(hints.get(key, Any), default)
    return found


def _told_kind(annotation: Any) -> str | None:
    """Return the kind in an annotation `Annotated[..., kind]`."""
    told = get_args(annotation)[1] if get_origin(annotation) is Annotated else None
    return told if isinstance(told, str) and told in BUILTIN else None


def _is_callback(annotation: Any) -> bool:
    """Functions cannot be written in YAML, so Flower's `train_metrics_aggr_fn` is no option."""
    return "Callable" in str(annotation)


@cache
def _load(reference: str) -> Callable[..., Any]:
    module, _, name = reference.partition(":")
    folder = module.partition(".")[0]
    try:
        if folder in FOLDERS:
            _check_own(folder)
        target = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"{reference!r} cannot be imported: {error}") from error
    assert callable(target)
    return target  # type: ignore[no-any-return]


def _check_own(folder: str) -> None:
    found = Path(next(iter(import_module(folder).__path__))).resolve()
    if found != HOME / folder:
        raise ShadowedFolderError(
            f"fedalign needs its own package {folder!r} from {HOME}, but Python found {found}; "
            f"rename that folder, or start from another directory"
        )
