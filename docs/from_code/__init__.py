"""Pages that are made from the code: a Sphinx extension.

Where a page has a line `<!-- from the code: NAME -->` or `<!-- the text of: FILE -->`, Sphinx reads
Markdown that is made of the code, or of another file of the repository.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from from_code import commands, configurations, parts, settings
from from_code.moved import inside, text_of

MADE: dict[str, Callable[[], str]] = {
    "settings": settings.page,
    "commands": commands.page,
    "configurations": configurations.page,
    "studies": configurations.studies,
} | {kind: parts.pages(kind) for kind in parts.KINDS}
MADE_HERE = re.compile(r"^<!-- from the code: ([\w-]+) -->$", re.MULTILINE)
WRITTEN_ELSEWHERE = re.compile(r"^<!-- the text of: (\S+) -->$", re.MULTILINE)


def filled(text: str, page: str) -> str:
    """Return the text of a page as Sphinx reads it; `KeyError` for an unknown name."""
    text = MADE_HERE.sub(lambda found: MADE[found[1]](), text)
    return inside(WRITTEN_ELSEWHERE.sub(lambda found: text_of(found[1]), text), page)


def setup(app: Any) -> dict[str, bool]:
    """Let Sphinx fill each page that it reads."""

    def fill(_app: Any, page: str, source: list[str]) -> None:
        if page != "tutorial":  # a notebook is JSON
            source[0] = filled(source[0], page)

    app.connect("source-read", fill)
    return {"parallel_read_safe": True}
