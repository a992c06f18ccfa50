"""Pages that live elsewhere in the repository, and links that leave `docs/`."""

from __future__ import annotations

import os
import re
from pathlib import Path

DOCS = Path(__file__).resolve().parents[1]
HOME = DOCS.parent
PAGES = {"docker/README.md": "docker.md", "CONTRIBUTING.md": "design.md"}
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!\w+:|#)([^)#]+)(#[^)]*)?\)")


def text_of(file: str) -> str:
    """Return a file of the repository without its heading, its links as seen from `docs/`."""
    folder = (HOME / file).parent

    def seen(link: re.Match[str]) -> str:
        target = os.path.relpath(folder / link[2], DOCS)
        return f"[{link[1]}]({target}{link[3] or ''})"

    text = (HOME / file).read_text(encoding="utf-8")
    return LINK.sub(seen, text).partition("\n")[2]


def inside(text: str, page: str) -> str:
    """Return a page whose links stay in the site: what is no page of it becomes a plain name.

    Args:
        text: of the page.
        page: its name below `docs/`, such as `concepts/masks`.
    """
    folder = (DOCS / page).parent

    def seen(link: re.Match[str]) -> str:
        target = (folder / link[2]).resolve()
        if target.is_relative_to(DOCS):
            return link[0]
        name = target.relative_to(HOME).as_posix()
        if name in PAGES:
            return f"[{link[1]}]({os.path.relpath(DOCS / PAGES[name], folder)}{link[3] or ''})"
        return f"`{name}`"

    return LINK.sub(seen, text)
