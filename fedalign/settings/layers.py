"""Layers of settings: nested tables from YAML, and dotted settings that go over them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from fedalign.errors import BadValueError, InputError, nearest, shortened
from fedalign.settings.builtin import KINDS
from fedalign.settings.foreign import translated
from fedalign.settings.registry import error_path, explain, options
from fedalign.settings.renamed import OPTIONS, SETTINGS, current_key, current_keys
from fedalign.settings.sections import Simulation

M = TypeVar("M", bound=BaseModel)
Tree = dict[str, Any]


def with_layers(tree: Mapping[str, Any], layers: tuple[Mapping[str, Any], ...]) -> Tree:
    """Return nested settings with layers of dotted settings over them.

    A layer that names another part drops the options of the part before that the new one does not
    have. Whatever the order of a layer, its names are applied first.

    Raises:
        BadValueError: a dotted key leads through something that is not a table.
    """
    merged = {key: _copied(value, key) for key, value in tree.items()}
    for place in KINDS:
        if isinstance(merged.get(place), str):
            merged[place] = {"name": merged[place]}
    for layer in layers:
        _apply(merged, layer)
    return merged


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of nested tables under dotted keys."""
    leaves: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            leaves |= flatten(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves


def holds(layer: Mapping[str, Any], place: str) -> bool:
    """Return whether what stands at a dotted place comes from this layer of settings."""
    keys = {*layer, *map(current_key, layer)}
    tables = [key for key, value in layer.items() if isinstance(value, Mapping | list)]
    return (
        any(f"{key}.".startswith(f"{place}.") for key in keys)
        or any(f"{place}.".startswith(f"{key}.") for key in tables)
        or place.removesuffix(".name") in layer
    )


def validate(model: type[M], tree: Mapping[str, Any]) -> M:
    """Return the tree as a model.

    Raises:
        BadValueError: names the place of the first mistake. An unknown key comes before a missing
            one, because it may be a misspelling of that one.
    """
    try:
        return model.model_validate(tree)
    except ValidationError as error:
        unknown = [e["loc"] for e in error.errors() if e["type"] == "extra_forbidden"]
        place = error_path(error.errors()[0]["loc"])
        if unknown:
            place = tuple(map(str, unknown[0]))  # as it is: a key may be called `int`
        dotted = ".".join(place)
        if not unknown:
            raise BadValueError(dotted, explain(error)) from None
        fields = model.model_fields
        for step in place[:-1]:
            kind: Any = fields[step].annotation
            sections = (k for k in (kind, *get_args(kind)) if hasattr(k, "model_fields"))
            fields = next(sections).model_fields
        hint = translated(place[-1]) or nearest(place[-1], fields)
        raise BadValueError(dotted, f"no such setting{hint}") from None


def _copied(value: Any, place: str) -> Any:
    """Return what stands at a place, with new keys for old ones in all its tables."""
    if not isinstance(value, Mapping):
        return value
    inner = {key: _copied(within, f"{place}.{key}") for key, within in value.items()}
    return _current(inner, place, inner.get("name"))


def _apply(tree: Tree, layer: Mapping[str, Any]) -> None:
    """Set all that a layer says, the outer tables before those inside them."""
    sections: dict[str, Tree] = {}
    for key, value in layer.items():
        place, _, leaf = (f"{key}.name" if key in KINDS else key).rpartition(".")
        sections.setdefault(place, {})[leaf] = value
    for place in sorted(sections, key=lambda place: len(_path(place))):
        section, path = sections[place], _path(place)
        table = _table(tree, path, f"{place}.{next(iter(section))}")
        if path and path[0] in KINDS and "name" in section:
            _drop_options(table, place, section["name"])
        table |= _current(section, place, section.get("name", table.get("name")))


def _path(place: str) -> list[str]:
    return place.split(".") if place else []


def _table(tree: Tree, path: list[str], key: str) -> Tree:
    """Return the table at a path, made where there is none."""
    for step in path:
        inner = tree.setdefault(step, {})
        if isinstance(inner, str) and path[0] in KINDS:
            inner = tree[step] = {"name": inner}
        if inner is None:
            inner = tree[step] = {}
        if not isinstance(inner, dict):
            found = shortened(repr(inner), 100)
            raise BadValueError(key, f"{step!r} holds the value {found}, not a table")
        tree = inner
    return tree


def _drop_options(table: Tree, place: str, name: Any) -> None:
    """Remove the options that a table's new part does not have."""
    known = _options(KINDS[place.partition(".")[0]], name, place)
    if known is not None and table.get("name") != name:
        for old in [old for old in table if old not in known]:
            del table[old]


def _current(section: Tree, place: str, name: Any) -> Tree:
    """Return a section with its old keys replaced by new ones; `name` is that of its part."""
    if place in SETTINGS:
        return current_keys(section, SETTINGS[place], Simulation.model_fields, place)
    kind = KINDS.get(place.partition(".")[0], "")
    renamed = OPTIONS.get(kind, {})
    return current_keys(section, renamed, _options(kind, name) or {}, place) if renamed else section


def _options(kind: str, name: Any, place: str = "") -> Mapping[str, Any] | None:
    """Return the options of a part; None for one that is refused later, with its place."""
    try:
        return options(kind, name, place) if isinstance(name, str) else None
    except InputError:
        return None
