"""Tensors of a model by patterns of their names."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from fedalign.network.layout import Entry

HEAD = "head"  # the last layer, whatever its tensors are called


def tensors_named(
    patterns: str, layers: Sequence[Sequence[Entry]], buffers: Sequence[Entry] = ()
) -> set[str]:
    """Return the names of the tensors that match; `ValueError` for a pattern that matches none.

    Args:
        patterns: separated by spaces, such as `fc* head`.
        layers: a model's, see `Layout.layers`.
        buffers: that can be named, too.
    """
    names = [entry.name for layer in layers for entry in layer]
    names += [entry.name for entry in buffers]
    found: set[str] = set()
    for pattern in patterns.split():
        own = {name for name in names if fnmatchcase(name, pattern)}
        own |= {entry.name for entry in layers[-1]} if pattern == HEAD else set()
        if not own:
            raise ValueError(f"{pattern!r} is no tensor of the model (head, {', '.join(names)})")
        found |= own
    return found
