"""What the pages show: their fenced blocks, and the commands in their text.

A comment before a block says what readers do not need to see: `<!-- file: mine.py -->`, that it is
(a part of) a file; `<!-- not run: needs Docker -->`, why no test runs it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from markdown_it import MarkdownIt

HOME = Path(__file__).resolve().parents[2]
PAGES = [
    *("README.md", "CONTRIBUTING.md", "docker/README.md", "examples/my-partitioner/README.md"),
    *sorted(file.relative_to(HOME).as_posix() for file in (HOME / "docs").rglob("*.md")),
]
SHELL, SHOWN = ("bash", "sh", "console"), ("", "text", "{toctree}", "{eval-rst}", "latex")
NOTE = re.compile(r"<!-- (not run|file): (.*?) -->", re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block, with the notes in the comment before it."""

    page: str
    line: int
    language: str
    text: str
    notes: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command in a block for a shell."""
        if self.language not in SHELL:
            return []
        lines = self.text.replace("\\\n", " ").splitlines()
        return [words for line in lines if (words := shlex.split(line, comments=True))]


def blocks(page: str) -> list[Block]:
    """Return the blocks of a page."""
    found, notes = [], dict[str, str]()
    for token in MarkdownIt("commonmark").parse((HOME / page).read_text(encoding="utf-8")):
        if token.type == "fence":
            assert token.map is not None
            language = token.info.split(" ")[0]
            found.append(Block(page, token.map[0] + 1, language, token.content, notes))
        notes = dict(NOTE.findall(token.content)) if token.type == "html_block" else {}
    return found


def spans(page: str) -> Iterator[list[str]]:
    """Yield the words of each command of fedalign in the text of a page."""
    for token in MarkdownIt("commonmark").enable("table").parse((HOME / page).read_text("utf-8")):
        for inner in token.children or ():
            if inner.type == "code_inline" and inner.content.startswith("fedalign "):
                yield shlex.split(inner.content.replace("\\|", "|"))


ALL = [block for page in PAGES for block in blocks(page)]
RUN = [block for block in ALL if block.language not in SHOWN and "not run" not in block.notes]
