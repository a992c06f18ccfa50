"""Fields of a configuration that hold parts."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer, ValidationInfo

from fedalign.errors import BadValueError
from fedalign.settings.builtin import DEFAULT_PARTS, KINDS
from fedalign.settings.registry import Part, parse


def _part(section: Any, info: ValidationInfo) -> Part:
    place = str(info.field_name)
    if isinstance(section, Part):
        return section
    default = {"name": DEFAULT_PARTS[place]}
    return parse(KINDS[place], default | section if isinstance(section, dict) else section, place)


PartField = Annotated[Part, BeforeValidator(_part), PlainSerializer(Part.dump)]


def trackers_of(given: Any) -> list[Part]:
    """Return what is given as a list of parts; a single one needs no list."""
    parts = _several(given, "trackers", "trackers")
    names = [part.name for part in parts]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadValueError("trackers", f"{twice[0]!r} is given twice")
    return parts


def _fusions(given: Any) -> list[Part]:
    """Return what is given as a list of fusions, all of them different."""
    parts = _several(given, "fusions", "evaluation.fusions")
    if twice := [part.name for part in parts if parts.count(part) > 1]:
        raise BadValueError("evaluation.fusions", f"{twice[0]!r} is given twice with equal options")
    return parts


def _several(given: Any, kind: str, place: str) -> list[Part]:
    listed = given if isinstance(given, list | tuple) else [given]
    return [raw if isinstance(raw, Part) else parse(kind, raw, place) for raw in listed]


Parts = list[Annotated[Part, PlainSerializer(Part.dump)]]
TrackersField = Annotated[Parts, BeforeValidator(trackers_of)]
FusionsField = Annotated[Parts, BeforeValidator(_fusions)]


def part(place: str, description: str) -> Any:
    """Return the field of a configuration that names a part."""
    return Field(
        default_factory=lambda: parse(KINDS[place], DEFAULT_PARTS[place], place),
        description=f"{description}; its options stand beside its name: {place}.OPTION",
        json_schema_extra={"allowed": f"one of the {KINDS[place]}, or package.module:Name"},
    )
