"""What a shell offers when Tab is pressed: configurations, studies, settings and their values.

Whatever it needs is imported when it is asked, so that `--help` does not wait.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import typer

from fedalign.errors import FedalignError

if TYPE_CHECKING:
    from fedalign.settings.reference import Setting


def configs(incomplete: str) -> list[str]:
    """Return the names of fedalign's configurations that begin so."""
    from fedalign.settings.sources import own

    return _beginning(incomplete, own("configs"))


def studies(incomplete: str) -> list[str]:
    """Return the names of fedalign's studies that begin so."""
    from fedalign.settings.sources import own

    return _beginning(incomplete, own("configs/studies"))


def overrides(ctx: typer.Context, incomplete: str) -> list[str]:
    """Return settings that begin so, as `key=`; after `key=` the values that it can have.

    Bash takes `=` for a word of its own, and expects the value alone.
    """
    *_, last = "", *_given(ctx)
    if last and last.partition("=")[2] == "":
        return _beginning(incomplete, _values(ctx, last.removesuffix("=")))
    key, equals, _ = incomplete.partition("=")
    if equals:
        return _beginning(incomplete, (f"{key}={value}" for value in _values(ctx, key)))
    keys = [setting.key for setting in _settings(ctx, key) if setting.key.startswith(key)]
    if len(keys) == 1:  # with nothing after `=`, a shell would add a space
        return [f"{keys[0]}={value}" for value in _values(ctx, keys[0])]
    return [f"{key}=" for key in keys]


def _settings(ctx: typer.Context, key: str) -> Iterator[Setting]:
    """Yield the settings, and of the part that `key` leads into, its options."""
    from dataclasses import replace

    from fedalign.settings.builtin import KINDS
    from fedalign.settings.reference import options_of_part, settings

    yield from settings()
    place = key.partition(".")[0]
    if place in KINDS and "." in key:
        with suppress(FedalignError):
            for option in options_of_part(KINDS[place], _part(ctx, place)):
                yield replace(option, key=f"{place}.{option.key}")


def _given(ctx: typer.Context) -> list[str]:
    """Return the settings typed before, whether or not the shell has cut them at `=`."""
    words = "\n".join(ctx.params.get("overrides") or [])
    return words.replace("\n=", "=").replace("=\n", "=").split("\n") if words else []


def _part(ctx: typer.Context, place: str) -> str:
    """Return the part that the configuration, or a word before, names."""
    from fedalign.settings.builtin import DEFAULT_PARTS
    from fedalign.settings.sources import read_tree

    for word in _given(ctx):
        if word.startswith((f"{place}=", f"{place}.name=")):
            return word.partition("=")[2]
    found = read_tree(str(ctx.params.get("config"))).get(place, DEFAULT_PARTS[place])
    return str(found.get("name", DEFAULT_PARTS[place]) if isinstance(found, dict) else found)


def _values(ctx: typer.Context, key: str) -> list[str]:
    """Return what can stand after `key=`: the choices, or the default."""
    from fedalign.settings.builtin import PLACES
    from fedalign.settings.registry import names

    if key in PLACES:
        return names(PLACES[key])
    for setting in _settings(ctx, key):
        if setting.key == key:
            return setting.allowed.split(" | ") if " | " in setting.allowed else [setting.default]
    return []


def _beginning(incomplete: str, known: Iterable[str]) -> list[str]:
    return [word for word in known if word.startswith(incomplete)]
