"""The pages of parts, kind by kind: every part, what it does, its options."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import partial

from fedalign.report.parts import PAPERS
from fedalign.settings.builtin import BUILTIN
from fedalign.settings.reference import options_of_part
from fedalign.settings.registry import load
from from_code.markdown import prose
from from_code.settings import rows

KINDS = tuple(BUILTIN)
SHARED = {"clients": "local"}  # its options are those of all client algorithms


def pages(kind: str) -> Callable[[], str]:
    """Return what makes the page of a kind of part."""
    return partial(page, kind)


def page(kind: str) -> str:
    """Return a section for each part of a kind that comes with fedalign."""
    return "\n\n".join(section(kind, name) for name in BUILTIN[kind])


def section(kind: str, name: str) -> str:
    """Return the section of one part: its docstring, then its options."""
    pieces = [f"## {name}", _described(kind, name)]
    common = SHARED.get(kind, name)
    known = options_of_part(kind, common) if common != name else []
    own = [option for option in options_of_part(kind, name) if option not in known]
    pieces += [rows(own)] if own else []
    pieces += [f"And all options of [{common}](#{common})."] if known else []
    return "\n\n".join(pieces)


def _described(kind: str, name: str) -> str:
    """Return what a part does: its docstring without the list of its arguments."""
    text = inspect.getdoc(load(kind, name)) or ""
    if kind == "strategies" and name in PAPERS:  # Flower's, with a citation of its own, or none
        title = re.sub(r" ?\[.*?\]", "", text.partition("\n")[0]).rstrip(".")
        return prose(f"{title} ({PAPERS[name]}). It comes with Flower.")
    for heading in ("Args:", "Attributes:", "Returns:", "Raises:", "Parameters\n"):
        text = text.partition(f"\n{heading}")[0]
    return prose(text)
