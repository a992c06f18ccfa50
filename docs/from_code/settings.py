"""The page of settings: every one with its type, default, range and meaning."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fedalign.settings.reference import Setting, about, sections, settings
from from_code.markdown import code, table

HEADINGS = ("setting", "meaning", "type", "default", "allowed")


def page() -> str:
    """Return a table of the settings of a run, then one for each section in it."""
    found: dict[str, list[Setting]] = {"": [], **{section: [] for section in sections()}}
    for setting in settings():
        section = setting.key.rpartition(".")[0]
        found[section if section in found else ""].append(setting)
    pieces = [rows(found.pop(""))]
    for section, several in found.items():
        pieces += [f"## {section}", about(sections()[section]), rows(several)]
    return "\n\n".join(pieces)


def rows(found: Sequence[Setting]) -> str:
    """Return the table of some settings; columns without a word are left out."""
    lines = [[code(s.key), s.description, s.kind, _default(s), _allowed(s.allowed)] for s in found]
    kept = [i for i, _ in enumerate(HEADINGS) if any(line[i] for line in lines)]
    return table([HEADINGS[i] for i in kept], [[line[i] for i in kept] for line in lines])


def _allowed(text: str) -> str:
    """Return choices or bounds as code, one by one, so that a line can break between them."""
    if " | " not in text and not text.startswith((">", "<")):
        return text
    return ", ".join(code(value) for value in re.split(r" \| |, ", text))


def _default(setting: Setting) -> str:
    return setting.default if setting.default == "required" else code(setting.default)
