"""Pieces of Markdown."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table; the bars in its cells are escaped."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def code(value: Any) -> str:
    """Return a value as it stands in YAML, in code style; an empty text if there is none."""
    text = value if isinstance(value, str) and value else json.dumps(value)
    return f"`{text}`"


def prose(text: str) -> str:
    """Return a docstring as Markdown: Sphinx's roles as code, examples fenced, no HTML."""
    text = re.sub(r":\w+:`~?([^`]*)`", r"`\1`", text)
    text = re.sub(r"``([^`]*)``", r"`\1`", text)
    return re.sub(r"^>>>.*(?:\n.+)*", _fenced, _plain(text), flags=re.MULTILINE).strip()


def _fenced(example: re.Match[str]) -> str:
    return f"```pycon\n{example[0].replace('&lt;', '<')}\n```"


def _plain(text: str) -> str:
    """Return text in which what lies outside of code is neither HTML nor a link."""
    parts = re.split(r"(`[^`]*`)", text)
    parts[::2] = [re.sub(r"<", "&lt;", part) for part in parts[::2]]
    return "".join(parts)


def _cell(text: str) -> str:
    return " ".join(re.sub(r"(?<!\\)\|", r"\\|", _plain(text)).split())
