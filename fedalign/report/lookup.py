"""What a word after `fedalign list` means: a part, a kind of parts, a setting, a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from difflib import get_close_matches
from functools import partial

from fedalign.errors import InputError
from fedalign.report import parts
from fedalign.settings.builtin import BUILTIN
from fedalign.settings.conformance import kind_of
from fedalign.settings.foreign import translated
from fedalign.settings.reference import Setting, options_of_part, sections, settings
from fedalign.settings.registry import import_part, names
from fedalign.settings.sources import own

Show = Callable[[], None]


def show(word: str) -> None:
    """Print all that a word means.

    Raises:
        InputError: it means nothing; the nearest words are named.
    """
    if ":" in word:
        parts.show_part(kind_of(import_part(word)), word)
        return
    found = [show for name, show in _whole() if name == word] or [
        show for name, show in _short() if name in (word, word.rpartition(".")[2])
    ]
    if not found:
        raise InputError(f"{word!r} is not a part, a setting or a file of fedalign{_near(word)}")
    for number, one in enumerate(found):
        if number:
            parts.console.print()
        one()


def words() -> list[str]:
    """Return every word that means something by itself, in the order of `fedalign list`."""
    return list(dict.fromkeys(name for name, _ in _whole()))


def _whole() -> Iterator[tuple[str, Show]]:
    """Yield words with what prints their meaning."""
    yield "settings", parts.show_sections
    yield "configs", parts.show_configs
    yield "studies", parts.show_studies
    for kind in BUILTIN:
        yield kind, partial(parts.show_kind, kind)
    for section in sections():
        yield section, partial(parts.show_section, section)
    for setting in settings():
        yield setting.key, partial(parts.show_setting, setting)
    for kind in BUILTIN:
        for name in names(kind):
            yield name, partial(parts.show_part, kind, name)
    for folder in ("configs", "configs/studies"):
        for name in own(folder):
            yield name, partial(parts.show_file, folder, name)


def _short() -> Iterator[tuple[str, Show]]:
    """Yield settings by their last name, such as `pairs` or `lr`, and options of parts."""
    for setting in settings():
        if "." in setting.key:
            yield setting.key.rpartition(".")[2], partial(parts.show_setting, setting)
    for kind in BUILTIN:
        owners: dict[Setting, list[str]] = {}
        for name in names(kind):
            for option in _options(kind, name):
                owners.setdefault(option, []).append(name)
        for option, several in owners.items():
            yield option.key, partial(parts.show_option, kind, several, option)


def _options(kind: str, name: str) -> list[Setting]:
    try:
        return options_of_part(kind, name)
    except InputError:  # of a plug-in that cannot be imported
        return []


def _near(word: str) -> str:
    """Return the end of the error for a word that means nothing."""
    if hint := translated(word):
        return hint
    known = [*words(), *(name for name, _ in _short())]
    close = list(dict.fromkeys(get_close_matches(word, known, n=5)))[:3]
    guess = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
    return f"{guess} (`fedalign list` shows all)"
