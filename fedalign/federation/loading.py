"""Reading a part of a data set."""

from __future__ import annotations

from collections.abc import Sequence

from fedalign.data import Dataset
from fedalign.data import Part as DataPart
from fedalign.data.classes import of_classes
from fedalign.errors import InputError, named
from fedalign.seeding import seeded
from fedalign.settings.contracts import Source


def loaded(
    source: Source, part: DataPart, called: str, classes: Sequence[int] | str | None = None
) -> Dataset:
    """Return a part of a data set, the same for all seeds.

    Args:
        source: the data set.
        part: train or test.
        called: the name of the data set.
        classes: those that are wanted, see `numbers_of`; None: all.

    Raises:
        InputError: the source returned something else, or has no such classes.
    """
    with named(f"data set: {called!r}: load({part!r})"), seeded(0, "data", part):
        found = source.load(part)
    if not isinstance(found, Dataset):
        problem = f"load({part!r}) returned a {type(found).__name__}, no Dataset"
        raise InputError(f"data.name: {called!r}: {problem}")
    return found if classes is None else of_classes(found, classes)
