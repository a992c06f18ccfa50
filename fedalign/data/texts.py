"""A user's own texts and their labels, in CSV files or JSON lines."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import Field

from fedalign.data import MAX_CLASSES, Part
from fedalign.data.sentences import Examples, Sentences, Task
from fedalign.data.tables import read_csv
from fedalign.errors import InputError, nearest, shortened

ENDINGS = (".csv", ".jsonl")


class Row(NamedTuple):
    """A line of a file."""

    place: str
    text: str
    label: str
    task: str


@dataclass(frozen=True)
class Texts(Sentences):
    """Your own texts with labels, in CSV files or JSON lines (`.jsonl`, an object in each line).

    A file has the columns `text` and `label`, and may have a column `task`; others are ignored. A
    folder holds `train.csv` (or `.jsonl`) and, if you like, `test.csv`; or for each task a file or
    a folder that is called like it. Without a test file a share of the texts is for tests, chosen
    by their SHA-256: equal texts are on the same side.
    """

    path: Annotated[str | None, Field(description="The file, or the folder.")] = None
    text: Annotated[str, Field(description="Column of the texts.")] = "text"
    label: Annotated[str, Field(description="Column of the labels.")] = "label"
    column: Annotated[str, Field(description="Column of the tasks, where there is one.")] = "task"
    test_share: Annotated[
        float,
        Field(ge=0, lt=1, description="Share of the texts that is for tests without a test file."),
    ] = 0.1

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of all tasks."""
        return tuple(self._tasks)

    def find(self, name: str) -> Task:
        """Return a task."""
        if name not in self._tasks:
            raise InputError(
                f"data.path: {self.path} has no task {name!r}{nearest(name, self.tasks)}"
            )
        return self._tasks[name]

    def origin(self) -> str:
        """Return the path and a digest of what it holds."""
        digest = hashlib.sha256(repr(self._tasks).encode("utf-8", "surrogatepass")).hexdigest()
        return f"own texts of {self.path}, SHA-256 {digest}"

    @cached_property
    def _tasks(self) -> dict[str, Task]:
        rows: dict[str, dict[Part, list[Row]]] = {}
        for row, part in self._rows():
            rows.setdefault(row.task, {"train": [], "test": []})[part].append(row)
        return {name: _task(name, **own) for name, own in rows.items()}

    def _rows(self) -> Iterator[tuple[Row, Part]]:
        """Yield the lines of all files, each with its part."""
        for name, files in _files(self.path).items():
            for part, file in files.items():
                for row in self._lines(file, name):
                    to_test = len(files) == 1 and _place(row.text) < self.test_share
                    yield row, "test" if to_test else part

    def _lines(self, file: Path, task: str) -> Iterator[Row]:
        """Yield the lines of a file, whose task is this one unless they name another."""
        found = False
        for place, line in (_json if file.suffix == ".jsonl" else _csv)(file):
            for column in (self.text, self.label):
                if line.get(column) in (None, ""):
                    has = shortened(", ".join(line), 100)
                    raise InputError(f"{place}: must have a {column!r}; it has {has}")
            text, label = line[self.text], line[self.label]
            if not isinstance(text, str) or not isinstance(label, str | int):
                found_ = shortened(repr([text, label]), 100)
                raise InputError(f"{place}: {found_} is no text with a label")
            found = True
            yield Row(place, text, str(label), str(line.get(self.column) or task))
        if not found:
            raise InputError(f"{file}: there are no examples")


def _files(path: str | None) -> dict[str, dict[Part, Path]]:
    """Return the files of each task, by part."""
    if path is None:
        raise InputError("data.path: must be given, a file or folder with texts and labels")
    place = Path(path).expanduser()
    if not place.exists():
        raise InputError(f"data.path: there is no {path!r}")
    if own := _parts(place):
        return {place.stem: own}
    inside = sorted(place.iterdir()) if place.is_dir() else []
    found = {entry.stem: own for entry in inside if (own := _parts(entry))}
    if not found:
        wanted = (
            "a .csv or .jsonl file, a folder with train.csv or train.jsonl, or a folder of them"
        )
        raise InputError(f"data.path: {path!r} is not {wanted}")
    return found


def _parts(place: Path) -> dict[Part, Path]:
    """Return the files of one task; empty if a place is none."""
    if place.is_file():
        return {"train": place} if place.suffix in ENDINGS else {}
    found: dict[Part, Path] = {}
    parts: tuple[Part, Part] = ("train", "test")
    for part in parts:
        files = [file for end in ENDINGS if (file := place / f"{part}{end}").is_file()]
        if len(files) > 1:
            raise InputError(f"{place}: holds {files[0].name} and {files[1].name}; remove one")
        if files:
            found[part] = files[0]
    return found if "train" in found else {}


def _csv(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    lines = read_csv(file)
    for values, number in zip(lines.rows, lines.numbers, strict=True):
        yield f"{file} line {number}", dict(zip(lines.columns, values, strict=True))


def _json(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        texts = file.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: not readable text in UTF-8: {error}") from None
    for number, text in enumerate(texts, 1):
        if text.strip():
            place = f"{file} line {number}"
            try:
                line = json.loads(text)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{place}: not JSON: {error}") from None
            if not isinstance(line, dict):
                raise InputError(f'{place}: not an object, such as {{"text": …, "label": …}}')
            yield place, line


def _task(name: str, train: list[Row], test: list[Row]) -> Task:
    """Return a task made of lines; its labels are those of both parts, sorted."""
    labels = {row.label for row in (*train, *test)}
    in_order = sorted(labels, key=lambda label: (int(label) if label.isdecimal() else -1, label))
    if len(in_order) > MAX_CLASSES:
        raise InputError(f"data: task {name!r} has {len(in_order)} labels, more than {MAX_CLASSES}")
    number = {label: i for i, label in enumerate(in_order)}
    return Task(name, tuple(in_order), *(_numbered(rows, number) for rows in (train, test)))


def _numbered(rows: Iterable[Row], number: dict[str, int]) -> Examples:
    own = list(rows)
    return Examples([row.text for row in own], [number[row.label] for row in own])


def _place(text: str) -> float:
    """Return a number from 0 to 1 that only depends on the text."""
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64
