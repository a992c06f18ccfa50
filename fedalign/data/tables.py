"""Users' own CSV files: lists of images, and tables of labels and numbers."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedalign.data import Spec
from fedalign.data.demands import check_shape, numbers
from fedalign.data.formats import Array
from fedalign.errors import InputError

LABEL = "label"


@dataclass(frozen=True)
class Lines:
    """What a CSV file holds.

    Attributes:
        columns: the names in its first line.
        rows: the values in every other line, as many as columns.
        numbers: the number of each of these lines in the file.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    numbers: Sequence[int]


def read_csv(path: Path) -> Lines:
    """Return what a CSV file in UTF-8 holds; empty lines are left out.

    Raises:
        InputError: it cannot be read, or a line has more or fewer values than the first.
    """
    columns, rows, places = list[str](), [], []
    try:
        with path.open(newline="", encoding="utf-8-sig") as lines:
            reader = csv.reader(lines, skipinitialspace=True)
            for row in reader:
                if not columns:
                    columns = row
                elif row:
                    rows.append(row)
                    places.append(reader.line_num)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: not a readable CSV file in UTF-8: {error}") from error
    for row, number in zip(rows, places, strict=True):
        if len(row) != len(columns):
            wanted = f"must have a value for each of {', '.join(columns)}"
            raise InputError(f"{path} line {number}: {wanted}")
    return Lines(columns, rows, places)


@dataclass(frozen=True)
class Table:
    """A CSV file with a column `label`; every other column is a feature, a number in each line.

    Attributes:
        place: the file. Features have the order of `train.csv` in the same folder, if there is one.
        lines: what it holds.
    """

    place: Path
    lines: Lines

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an example, `(F,)`."""
        return (len(self._features),)

    def labels(self) -> set[str] | int:
        """Return the set of labels."""
        return set(self._labels)

    def read(self, spec: Spec, whose: str) -> tuple[Tensor, Tensor]:
        """Return rows `(N, F)` float32 and labels in the order of the file; see `forms.Form`."""
        check_shape(self.place, self.shape, spec, whose)
        places = [f"{self.place} line {number}" for number in self.lines.numbers]
        first = dict(zip(reversed(self._labels), reversed(places), strict=True))
        number = numbers(first, spec, whose)
        rows = np.stack([self._numbers(name) for name in self._features], 1)
        return torch.from_numpy(rows), torch.tensor([number[label] for label in self._labels])

    @cached_property
    def _features(self) -> list[str]:
        train, own = self.place.with_name("train.csv"), self.lines.columns
        wanted = own if train == self.place or not train.is_file() else read_csv(train).columns
        if sorted(own) != sorted(wanted) or len(set(own)) < len(own):
            raise InputError(f"{self.place}: its columns must be those of {train}, each once")
        return [name for name in wanted if name != LABEL]

    @cached_property
    def _labels(self) -> list[str]:
        column = self.lines.columns.index(LABEL)
        labels = [row[column] for row in self.lines.rows]
        if not labels:
            raise InputError(f"{self.place}: there are no examples")
        if "" in labels:
            line = self.lines.numbers[labels.index("")]
            raise InputError(f"{self.place} line {line}: must have a label")
        return labels

    def _numbers(self, name: str) -> Array:
        """Return a column `(N,)` float32."""
        column = self.lines.columns.index(name)
        texts = [row[column] for row in self.lines.rows]
        with np.errstate(over="ignore"):  # what is too large for float32 becomes infinite
            values = np.array([_number(text) for text in texts]).astype(np.float32)
        wrong = ~np.isfinite(values)
        if wrong.any():
            row = int(wrong.argmax())
            line, found = self.lines.numbers[row], repr(texts[row]) if texts[row] else "nothing"
            reason = f"{name} is {found}, not a finite number of 32 bits"
            reason += "; a list of images has the columns file and label"
            raise InputError(f"{self.place} line {line}: {reason}")
        return values


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")
