"""Several sentence classification tasks in one JSON file."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from fedalign.data.formats import unpacked
from fedalign.data.places import Folder, find
from fedalign.data.sentences import Examples, Names, Sentences, Task
from fedalign.errors import InputError, nearest

FILES = [("text-tasks.json",), ("text-tasks.json.gz",)]
FORM = '{task: {"labels": [names], "train": [[text, number], …], "test": …}}'


@dataclass(frozen=True)
class TextTasks(Sentences):
    """Classification of sentences: movie reviews, questions, opinions (Kim 2014's tasks).

    The file `text-tasks.json`, compressed with gzip or not, holds `{task: {"labels": [names],
    "train": [[text, number of its label], …], "test": …}}`; other parts are not used. Chosen tasks
    are one data set: with `partition=natural` and as many clients as tasks each client has one.
    """

    tasks: Annotated[Names, Field(min_length=1, description="The tasks that clients train on.")] = (
        *("mr", "trec"),
        *("cr", "mpqa"),
    )
    file: Annotated[str | None, Field(description="The file, where it is not in data.dir.")] = None
    dir: Folder = None

    def __post_init__(self) -> None:
        """Refuse a task that is given twice."""
        if len(set(self.tasks)) < len(self.tasks):
            raise InputError(f"data.tasks: {', '.join(self.tasks)} has a task twice")

    def find(self, name: str) -> Task:
        """Return a task of the file."""
        if name not in self._stored:
            hint = nearest(name, self._stored)
            raise InputError(f"data.tasks: {self._place} has no task {name!r}{hint}")
        if name not in self._read:
            self._read[name] = _task(f"{self._place}: {name}", name, self._stored[name])
        return self._read[name]

    def origin(self) -> str:
        """Return the file and its digest."""
        return f"text tasks of {self._place}, SHA-256 {self._content[1]}"

    @cached_property
    def _read(self) -> dict[str, Task]:
        return {}

    @cached_property
    def _place(self) -> Path:
        if self.file is None:
            return find("text-tasks", FILES, self.dir, None, has_download=False).files[0]
        return Path(self.file).expanduser()

    @cached_property
    def _content(self) -> tuple[Any, str]:
        try:
            raw = unpacked(self._place)
            return json.loads(raw), hashlib.sha256(raw).hexdigest()
        except (OSError, EOFError, ValueError, RecursionError, zlib.error) as error:
            raise InputError(f"data.file: {self._place}: not readable JSON: {error}") from None

    @property
    def _stored(self) -> Mapping[str, Any]:
        if not isinstance(self._content[0], dict) or not self._content[0]:
            raise InputError(f"data.file: {self._place}: must hold {FORM}")
        return self._content[0]


def _task(place: str, name: str, stored: Any) -> Task:
    """Return a task as a file stores it."""
    try:
        labels = tuple(stored["labels"])
        parts = [_examples(stored.get(part, []), len(labels)) for part in ("train", "test")]
        if not labels or {type(label) for label in labels} != {str}:
            raise ValueError("labels must be names")
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"{place}: must be as in {FORM}: {error!r}") from None
    return Task(name, labels, *parts)


def _examples(pairs: Any, count: int) -> Examples:
    for text, label in pairs:
        if not isinstance(text, str) or type(label) is not int or not 0 <= label < count:
            raise ValueError(f"{[text, label]} is no text with a number 0..{count - 1}")
    return Examples([text for text, _ in pairs], [label for _, label in pairs])
