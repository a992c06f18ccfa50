"""Data of some of their classes only, as for a model that is pretrained on the others."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import torch

from fedalign.data import Dataset, Spec
from fedalign.errors import InputError

RANGE = re.compile(r"(\d+)(?:-(\d+))?")


def numbers_of(given: Sequence[int] | str) -> list[int]:
    """Return the classes of the option `data.classes`.

    >>> numbers_of("0-2, 7")
    [0, 1, 2, 7]

    Raises:
        InputError: it is no list of different numbers.
    """
    found: list[int] = []
    for word in given.replace(",", " ").split() if isinstance(given, str) else map(str, given):
        parts = RANGE.fullmatch(word)
        if parts is None:
            raise InputError(f"data.classes: {word!r} is no class, such as 3, or classes, as 0-8")
        found += range(int(parts[1]), int(parts[2] or parts[1]) + 1)
    if not found or len(set(found)) < len(found):
        raise InputError(f"data.classes: {given!r} must be one or more different numbers")
    return found


def spec_of(spec: Spec, given: Sequence[int] | str) -> Spec:
    """Return what examples of these classes look like.

    Raises:
        InputError: there is no such class, or the data are text.
    """
    classes = numbers_of(given)
    if spec.is_text and spec.vocabulary is None:
        raise InputError(f"data.classes: {spec.kind} has no classes to choose from")
    if max(classes) >= spec.classes:
        problem = f"{max(classes)} is no class of this data, whose are 0 to {spec.classes - 1}"
        raise InputError(f"data.classes: {problem}")
    names, sets = tuple(spec.labels[c] for c in classes), spec.label_sets
    tasks = list(dict.fromkeys(sets[c] for c in classes)) if sets else []
    own = tuple(tasks.index(sets[c]) for c in classes) if sets else ()
    return replace(spec, classes=len(classes), names=names, label_sets=own)


def of_classes(data: Dataset, given: Sequence[int] | str) -> Dataset:
    """Return the examples of these classes, which get the numbers 0, 1, …; see `spec_of`."""
    spec, classes = spec_of(data.spec, given), torch.tensor(numbers_of(given))
    rows = torch.isin(data.labels.cpu(), classes).nonzero()[:, 0]
    if not len(rows):
        raise InputError(f"{data.source}: there are no examples of {', '.join(spec.names)}")
    new = torch.full((data.classes,), -1)
    new[classes] = torch.arange(len(classes))
    kept = data.at(rows)
    return replace(
        kept,
        labels=new[kept.labels],
        classes=spec.classes,
        class_names=spec.names,
        label_sets=spec.label_sets,
        source=f"{data.source}; only the {len(rows):,} examples of {', '.join(spec.names)}",
    )
