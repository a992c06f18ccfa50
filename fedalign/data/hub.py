"""Texts of the Hugging Face hub, through the package `datasets`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any

from pydantic import Field

from fedalign.data.packaged import needed
from fedalign.data.sentences import Examples, Names, Sentences, Task
from fedalign.errors import InputError, shortened


@dataclass(frozen=True)
class Hub(Sentences):
    """Data sets of texts on the Hugging Face hub, each of them a task (`fedalign[hub]`).

    They are downloaded when they are first used. `datasets` may also hold folders of such data.
    """

    datasets: Annotated[
        Names, Field(description="Names, such as nyu-mll/glue:sst2, with a colon before a subset.")
    ] = ()
    text: Annotated[
        Names, Field(min_length=1, description="Columns of the texts; the first that there is.")
    ] = ("text", "sentence")
    label: Annotated[
        Names, Field(min_length=1, description="Columns of the labels; the first that there is.")
    ] = ("label",)
    train_split: Annotated[str, Field(description="Split to train on.")] = "train"
    test_split: Annotated[str, Field(description="Split to test on.")] = "test"

    def __post_init__(self) -> None:
        """Refuse an empty list, and a data set that is given twice."""
        if not self.datasets or len(set(self.datasets)) < len(self.datasets):
            given = ", ".join(self.datasets) or "none"
            raise InputError(f"data.datasets: must be names, each once, not {given}")

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of the data sets."""
        return self.datasets

    def find(self, name: str) -> Task:
        """Return a data set, downloaded if it must be."""
        if name not in self._read:
            self._read[name] = self._task(name)
        return self._read[name]

    def origin(self) -> str:
        """Return where the texts come from."""
        return "texts of the Hugging Face hub"

    @cached_property
    def _read(self) -> dict[str, Task]:
        return {}

    def _task(self, name: str) -> Task:
        path, _, subset = name.partition(":")
        load = needed("datasets", "data.datasets").load_dataset
        try:
            parts = [
                load(path, subset or None, split=s) for s in (self.train_split, self.test_split)
            ]
        except Exception as error:  # of files, of the network, of the hub: of any kind
            said = f"{type(error).__name__}: {shortened(str(error))}"
            raise InputError(f"data.datasets: {name!r}: {said}") from None
        text, label = (self._column(name, parts, names) for names in (self.text, self.label))
        labels = _labels(parts, label)
        number = {value: i for i, value in enumerate(labels)}
        found = [Examples(list(p[text]), [number[value] for value in p[label]]) for p in parts]
        return Task(
            name, tuple(getattr(parts[0].features[label], "names", map(str, labels))), *found
        )

    def _column(self, name: str, parts: Sequence[Any], wanted: Sequence[str]) -> str:
        known = parts[0].column_names
        found = next((column for column in wanted if column in known), None)
        if found is None:
            reason = f"has the columns {', '.join(known)}, none of {', '.join(wanted)}"
            raise InputError(f"data.datasets: {name!r} {reason}")
        return found


def _labels(parts: Sequence[Any], column: str) -> list[Any]:
    """Return the values of labels in order: as the data set names them, or else sorted."""
    names = getattr(parts[0].features[column], "names", None)
    values = {value for part in parts for value in part[column]}
    return list(range(len(names))) if names else sorted(values)
