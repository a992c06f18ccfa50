"""Forms of a user's own data: a NumPy archive, a folder for each class, or a CSV file."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from fedalign.data import Part, Spec
from fedalign.data.archive import Archive
from fedalign.data.demands import check_shape, numbers
from fedalign.data.pictures import SUFFIXES, pixels
from fedalign.data.tables import LABEL, Lines, Table, read_csv
from fedalign.errors import InputError

FORMS = (
    "{part}.npz with images and labels, {part}/<class>/ with image files, "
    "and {part}.csv with the columns file and label, or label and numbers"
)
LEFT_BEHIND = {"thumbs.db", "desktop.ini"}  # files that Windows creates


class Form(Protocol):
    """One part of a data folder; its files are listed already, `read` reads the examples."""

    @property
    def place(self) -> Path:
        """The archive, folder or CSV file."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the first example: an image `(C, H, W)`, or a row of a table `(F,)`."""
        ...

    def labels(self) -> set[str] | int:
        """Return the names of the classes; of numbered classes the least number there must be."""
        ...

    def read(self, spec: Spec, whose: str) -> tuple[Tensor, Tensor]:
        """Return images `(N, C, H, W)` uint8, or rows `(N, F)` float32, and labels `(N,)` int64.

        Raises:
            InputError: A file cannot be read or does not fit `spec`, which belongs to `whose`.
        """
        ...


def has(folder: Path, part: Part) -> bool:
    """Return whether a folder holds this part, in any form."""
    return bool(_candidates(folder, part))


def find(folder: Path, part: Part, shape: tuple[int, ...] | None) -> Form | None:
    """Return one part of a folder; None if it does not hold this part.

    Args:
        folder: holds the data.
        part: which part.
        shape: shape of an example, if it is known.

    Raises:
        InputError: The folder holds the part in several forms, or its files are in disorder.
    """
    found = _candidates(folder, part)
    if len(found) > 1:
        forms = " and as ".join(found)
        raise InputError(f"{folder}: holds the {part} part as {forms}; remove all but one")
    for name in found:
        path = folder / name
        if path.suffix == ".npz":
            return Archive(path, shape)
        if path.suffix != ".csv":
            return _in_classes(path.parent, found[name])
        lines = read_csv(path)
        is_table = LABEL in lines.columns and "file" not in lines.columns and len(lines.columns) > 1
        return Table(path, lines) if is_table else _listed(path, lines)
    return None


def _candidates(folder: Path, part: Part) -> dict[str, list[Path]]:
    """Return the forms in which a part exists, by name, each with its folders of classes."""
    found: dict[str, list[Path]] = {
        name: [] for name in (f"{part}.npz", f"{part}.csv") if (folder / name).is_file()
    }
    if classes := _folders(folder / part):
        found[f"{part}/<class>/"] = classes
    # Folders beside a CSV file hold its images.
    if part == "train" and "train.csv" not in found and not (folder / "train").is_dir():
        classes = [path for path in _folders(folder) if path.name != "test"]
        if any(_is_image(file) for path in classes for file in path.iterdir()):
            found["<class>/"] = classes
    return found


@dataclass(frozen=True)
class Files:
    """Image files with their labels, in a fixed order.

    Attributes:
        place: the folder or the CSV file.
        files: each image and its label.
        at: every label and the place where it first occurs, for messages.
    """

    place: Path
    files: Sequence[tuple[Path, str]]
    at: Mapping[str, str]

    def __post_init__(self) -> None:
        """Raise `InputError` if there are no images."""
        if not self.files:
            raise InputError(f"{self.place}: there are no images")

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The shape of the first image, `(C, H, W)`."""
        return pixels(self.files[0][0]).shape

    def labels(self) -> set[str] | int:
        """Return the labels, including those of empty folders."""
        return set(self.at)

    def read(self, spec: Spec, whose: str) -> tuple[Tensor, Tensor]:
        """Return images and labels; see `Form`. Each image is decoded straight into the result."""
        number = numbers(self.at, spec, whose)
        check_shape(self.files[0][0], self.shape, spec, whose)  # before memory is asked for
        images = np.empty((len(self.files), *spec.shape), np.uint8)
        for row, (path, _) in enumerate(self.files):
            image = pixels(path)
            check_shape(path, image.shape, spec, whose)
            images[row] = image
        labels = torch.tensor([number[label] for _, label in self.files])
        return torch.from_numpy(images), labels


def _in_classes(place: Path, folders: Iterable[Path]) -> Files:
    """Return the images in folders of classes, sorted by class and name."""
    for path in filter(_is_image, _visible(place)):
        raise InputError(f"{path}: an image outside the folders of classes has no class")
    files, at = [], {}
    for folder in folders:
        at[folder.name] = str(folder)
        for path in _visible(folder):
            if not _is_image(path):
                allowed = f"image files ({', '.join(SUFFIXES)})"
                raise InputError(f"{path}: not an image; the folder of a class may hold {allowed}")
            files.append((path, folder.name))
    return Files(place, files, at)


def _listed(path: Path, lines: Lines) -> Files:
    """Return the images that a CSV file lists, in its order; links are followed."""
    if not {"file", LABEL} <= set(lines.columns):
        found = ", ".join(lines.columns) or "none"
        wanted = "file and label, or label and one for each feature of a table"
        raise InputError(f"{path}: its columns must be {wanted}, not {found}")
    files, at = [], dict[str, str]()
    for values, number in zip(lines.rows, lines.numbers, strict=True):
        row, place = dict(zip(lines.columns, values, strict=True)), f"{path} line {number}"
        if not row["file"] or not row[LABEL]:
            raise InputError(f"{place}: must have a value for each of {', '.join(lines.columns)}")
        files.append((_inside(path.parent, row["file"], place), row[LABEL]))
        at.setdefault(row[LABEL], place)
    return Files(path, files, at)


def _inside(folder: Path, file: str, place: str) -> Path:
    """Return the path of a listed file; a list must not reach files outside its own folder."""
    path = Path(os.path.normpath(file))
    if path.is_absolute() or path.parts[:1] == ("..",):
        raise InputError(f"{place}: file {file!r} is not a path inside {folder}")
    return folder / path


def _folders(folder: Path) -> list[Path]:
    return [path for path in _visible(folder) if path.is_dir()] if folder.is_dir() else []


def _visible(folder: Path) -> list[Path]:
    """Return the entries of a folder, sorted by name, without hidden ones."""
    return sorted(
        path
        for path in folder.iterdir()
        if not path.name.startswith(".") and path.name.lower() not in LEFT_BEHIND
    )


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.is_dir()
