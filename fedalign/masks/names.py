"""Tensors of a model by patterns of their names."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from fedalign.network.layout import Entry

HEAD, BODY = "head", "body"  # the last layer, whatever its tensors are called, and all others


def tensors_named(
    patterns: str, layers: Sequence[Sequence[Entry]], buffers: Sequence[Entry] = ()
) -> set[str]:
    """Return the names of the tensors that match; `ValueError` for a pattern that matches none.

    Args:
        patterns: separated by spaces, such as `fc* head`; `body` is all but the head.
        layers: a model's, see `Layout.layers`.
        buffers: that can be named, too.
    """
    names = [entry.name for layer in layers for entry in layer]
    names += [entry.name for entry in buffers]
    found: set[str] = set()
    for pattern in patterns.split():
        own = {name for name in names if fnmatchcase(name, pattern)}
        parts = {HEAD: layers[-1:], BODY: layers[:-1]}.get(pattern, ())
        own |= {entry.name for layer in parts for entry in layer}
        if not own:
            raise ValueError(
                f"{pattern!r} is no tensor of the model (head, body, {', '.join(names)})"
            )
        found |= own
    return found
