"""Every setting with its type, default, range and meaning, read from the models that check it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from fedalign.settings.common import COMMON
from fedalign.settings.config import Config
from fedalign.settings.registry import Part, options
from fedalign.settings.signatures import Option

SIGNS = {
    "gt": ">",
    "ge": ">=",
    "lt": "<",
    "le": "<=",
    "min_length": "length >=",
    "multiple_of": "a multiple of",
}
NAMES = {
    int: "int",
    float: "float",
    bool: "bool",
    str: "text",
    dict: "table",
    list: "list",
    tuple: "list",
}
REQUIRED = "required"


@dataclass(frozen=True)
class Setting:
    """One setting as a person looks it up.

    Attributes:
        key: its dotted key, such as `evaluation.pairs`.
        kind: its type, such as `int` or `int or null`.
        default: its value if it is not given, as in YAML; `required` if it must be given.
        allowed: its bounds or its choices; "" for any value of its type.
        description: what it means.
    """

    key: str
    kind: str
    default: str
    allowed: str
    description: str


def settings() -> list[Setting]:
    """Return every setting of a run, except the options of its parts, in the order of `Config`."""
    found = []
    for setting in keys_of(Config):
        found += [setting, *common(setting.key)]
    return found


def common(place: str) -> list[Setting]:
    """Return the options that all parts in a section have, such as `partition.seed`."""
    options = COMMON.get(place, {}).items()
    return [_of_option(f"{place}.{key}", option) for key, option in options]


def options_of_part(kind: str, name: str) -> list[Setting]:
    """Return the options of a part, such as `options_of_part("clients", "local")`."""
    return [_of_option(key, option) for key, option in options(kind, name).items()]


def keys_of(model: type[BaseModel], prefix: str = "") -> list[Setting]:
    """Return the keys of a table and of the tables in it, which a pydantic model describes."""
    found: list[Setting] = []
    for key, field in model.model_fields.items():
        inner, name = _inner(field.annotation), f"{prefix}{key}"
        if inner is None or get_origin(field.annotation) is dict:
            found.append(_of_field(name, field))
        if inner is not None:
            label = ".NAME." if get_origin(field.annotation) is dict else "."
            found += keys_of(inner, f"{name}{label}")
    return found


def about(model: type[BaseModel]) -> str:
    """Return the first sentence of what a table is for."""
    return (inspect.getdoc(model) or "").partition("\n")[0]


def sections(model: type[BaseModel] = Config, prefix: str = "") -> dict[str, type[BaseModel]]:
    """Return the tables of a configuration that hold settings and no part, by dotted key."""
    found: dict[str, type[BaseModel]] = {}
    for key, field in model.model_fields.items():
        if (inner := _inner(field.annotation)) is not None:
            found |= {f"{prefix}{key}": inner} | sections(inner, f"{prefix}{key}.")
    return found


def _inner(annotation: Any) -> type[BaseModel] | None:
    """Return the model of a table, or of each table in a table of them."""
    if get_origin(annotation) is dict:
        annotation = get_args(annotation)[1]
    is_table = isinstance(annotation, type) and issubclass(annotation, BaseModel)
    return annotation if is_table else None


def _of_field(key: str, field: FieldInfo) -> Setting:
    extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
    if field.annotation is Part:
        default, kind, allowed = field.get_default(call_default_factory=True).name, "part", ""
    else:
        kind, allowed = _typed(field.annotation, field.metadata)
        default = REQUIRED if field.is_required() else _written(_usual(field))
    default, allowed = (str(extra.get(k, v)) for k, v in (("shown", default), ("allowed", allowed)))
    return Setting(key, kind, default, allowed, field.description or "")


def _usual(field: FieldInfo) -> Any:
    return field.get_default(call_default_factory=True, validated_data={})


def _of_option(key: str, option: Option) -> Setting:
    default = REQUIRED if option.default is ... else _written(option.default)
    if option.nested:
        told = f"a part with options of its own: see `fedalign list {option.nested}`"
        return Setting(key, "part", default, f"one of the {option.nested}", told)
    annotation, more = option.annotation, []
    if get_origin(annotation) is Annotated:
        annotation, *more = get_args(annotation)
    kind, allowed = _typed(annotation, more)
    described = (m.description for m in more if isinstance(m, FieldInfo) and m.description)
    return Setting(key, kind, default, allowed, next(described, ""))


def _typed(annotation: Any, metadata: Iterable[Any] = ()) -> tuple[str, str]:
    """Return the type of a value in words, and which values of the type are allowed."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _typed(inner[0], [*inner[1:], *metadata])
    bounds = ", ".join(_bounds(metadata))
    if origin is Literal:
        return ("bool" if set(inner) <= {True, False} else "choice"), " | ".join(
            map(_written, inner)
        )
    if annotation is bool:
        return "bool", "true | false"
    if origin in (Union, UnionType):
        branches = [_branch(branch) for branch in inner]
        limits = dict.fromkeys(limit for _, limit in branches if limit)
        return " or ".join(kind for kind, _ in branches), ", ".join(
            [*limits, *filter(None, [bounds])]
        )
    name = NAMES.get(origin or annotation, getattr(annotation, "__name__", str(annotation)))
    return name, bounds


def _branch(annotation: Any) -> tuple[str, str]:
    """Return type and bounds of one branch of a union; a choice is its own type there."""
    if annotation in (None, NoneType):
        return "null", ""
    if get_origin(annotation) is Literal:
        return " | ".join(map(_written, get_args(annotation))), ""
    return _typed(annotation)


def _bounds(metadata: Iterable[Any]) -> Iterator[str]:
    for item in metadata:
        if isinstance(item, FieldInfo):
            extra = item.json_schema_extra
            yield from (
                [str(extra["allowed"])] if isinstance(extra, dict) else _bounds(item.metadata)
            )
        for key, sign in SIGNS.items():
            if getattr(item, key, None) is not None and not isinstance(item, FieldInfo):
                yield f"{sign} {getattr(item, key):g}"


def _written(value: Any) -> str:
    """Return a value as it stands in YAML, a text without quotation marks where it needs none."""
    if isinstance(value, str) and value:
        return value
    return json.dumps(value, default=str)
