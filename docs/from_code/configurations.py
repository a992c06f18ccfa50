"""The pages of configurations and studies that come with fedalign."""

from __future__ import annotations

from itertools import takewhile

from fedalign.settings.sources import own
from from_code.markdown import code, table


def page() -> str:
    """Return the list of configurations: their names, and the comment with which each begins."""
    names = sorted(own(), key=lambda name: ("/" in name, name))
    texts = {name: own()[name].read_text("utf-8") for name in names}
    return table(["configuration", ""], [[code(n), _comment(t)] for n, t in texts.items()])


def studies() -> str:
    """Return the list of studies: their names, and the comment with which each begins."""
    texts = {name: file.read_text("utf-8") for name, file in own("configs/studies").items()}
    return table(["study", ""], [[code(n), _comment(t)] for n, t in texts.items()])


def _comment(text: str) -> str:
    """Return the comment with which a file begins."""
    lines = takewhile(lambda line: line.startswith("#"), text.splitlines())
    return " ".join(line.lstrip("# ") for line in lines)
