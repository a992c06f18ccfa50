"""LEAF's JSON files: each user's text or pixels (Caldas et al. 2018, arXiv 1812.01097)."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from math import isqrt
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import Field

from fedalign.data import Dataset, Part
from fedalign.data.formats import Arrays
from fedalign.data.places import Folder, Found, MaxExamples, find
from fedalign.data.text import VOCABULARY, encode
from fedalign.errors import InputError

LEAF_FOLDERS = ("train", "test")


@dataclass(frozen=True)
class LEAF:
    """Text or square grey images by user, in LEAF's JSON files (Caldas et al. 2018).

    The folders `train` and `test` of `data.dir` hold files of the form `{"users": [...],
    "user_data": {user: {"x": [...], "y": [...]}}}`. Either each x is a string and its y the next
    character (Shakespeare), or each x is a flat list of numbers 0..1 and its y a class (FEMNIST).
    Each user is a group. Images are not normalised, as in LEAF's own networks.
    """

    dir: Folder = None
    max_examples: MaxExamples = None
    num_classes: Annotated[int, Field(ge=2, description="Classes of images; 62 in FEMNIST.")] = 62

    def load(self, part: Part) -> Dataset:
        """Return one part, from the first place that has it; see `places.find`."""
        found = find("leaf", [LEAF_FOLDERS], self.dir, None, has_download=False)
        dataset = read_leaf(found, part, self.num_classes)
        return dataset.subset(self.max_examples) if part == "train" else dataset


def read_leaf(found: Found, part: Part, classes: int | None) -> Dataset:
    """Return one part of the users' examples, in the order of files and users.

    Each user is a group.

    Args:
        found: the folders `train` and `test`.
        part: which of them to read.
        classes: number of classes of images; None if only text is allowed.

    Raises:
        InputError: A file is damaged or has another form, or text and images are mixed.
    """
    folder = found.files[LEAF_FOLDERS.index(part)]
    names: dict[str, int] = {}
    x: list[Any] = []
    y: list[Any] = []
    owner: list[Any] = []
    for place, user, raw in _users(folder):
        images, labels = _arrays(place, raw)
        if x and images.shape[1:] != x[0].shape[1:]:
            raise InputError(f"{place}: x has shape {images.shape[1:]}, others {x[0].shape[1:]}")
        x.append(images)
        y.append(labels)
        owner.append(np.full(len(labels), names.setdefault(user, len(names))))
    if not x:
        raise InputError(f"{folder}: no .json file holds an example")
    is_text = x[0].ndim == 2
    if classes is None and not is_text:
        raise InputError(f"{folder}: holds images, not text; use data.name: leaf for images")
    return Dataset(
        images=torch.from_numpy(np.concatenate(x)),
        labels=torch.from_numpy(np.concatenate(y)),
        classes=VOCABULARY if is_text or classes is None else classes,
        mean=() if is_text else (0.0,),
        std=() if is_text else (1.0,),
        source=f"LEAF's JSON, {part} part, {len(names)} users, from {folder} ({found.place})",
        groups=torch.from_numpy(np.concatenate(owner)),
        group_names=tuple(names),
    )


def _users(folder: Path) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yield place in the files, name and data of each user that has examples."""
    for path in sorted(folder.glob("*.json")):
        try:
            if not path.is_file():
                raise ValueError("not a file")
            content = json.loads(path.read_text(encoding="utf-8"))
            users, data = list(content["users"]), content["user_data"]
            counts = content.get("num_samples", [len(data[user]["y"]) for user in users])
            count_of = dict(zip(users, counts, strict=True))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            wanted = "users, num_samples and user_data of x and y"
            raise InputError(f"{path}: not JSON with {wanted}: {error!r}") from error
        for user in users:
            count, place = count_of[user], f"{path}: user_data.{user}"
            x, y = data[user].get("x"), data[user].get("y")
            if not (isinstance(x, list) and isinstance(y, list) and len(x) == len(y) == count):
                raise InputError(f"{place}: x and y must be lists of num_samples={count}")
            if x:
                yield place, str(user), data[user]


def _arrays(place: str, raw: dict[str, Any]) -> Arrays:
    """Return the examples and labels of one user: text `(n, L)`, or images `(n, 1, H, W)`."""
    x, y = raw["x"], raw["y"]
    if all(isinstance(text, str) for text in x):
        return _text(place, x, y)
    try:
        pixels, labels = np.asarray(x, np.float64), np.asarray(y)
        if pixels.ndim != 2 or labels.ndim != 1 or labels.dtype.kind != "i":
            raise ValueError(f"x {pixels.shape}, y {labels.dtype} {labels.shape}")
    except (ValueError, TypeError) as error:
        allowed = "strings, or flat lists of equal length with whole numbers as y"
        raise InputError(f"{place}: x must be {allowed}: {error}") from error
    side = isqrt(pixels.shape[1])
    if side**2 != pixels.shape[1]:
        raise InputError(f"{place}: {pixels.shape[1]} pixels do not make a square image")
    if not (pixels.min() >= 0 and pixels.max() <= 1):
        raise InputError(f"{place}: pixels {pixels.min():g}..{pixels.max():g} are outside 0..1")
    bytes_ = np.rint(pixels * 255).astype(np.uint8)
    return bytes_.reshape(-1, 1, side, side), labels.astype(np.int64)


def _text(place: str, x: list[str], y: list[Any]) -> Arrays:
    if not all(isinstance(letter, str) and len(letter) == 1 for letter in y):
        raise InputError(f"{place}: each y must be one character where x are strings")
    lengths = {len(text) for text in x}
    if len(lengths) > 1 or 0 in lengths:
        raise InputError(f"{place}: strings must have equal lengths, not {sorted(lengths)}")
    return encode("".join(x)).reshape(len(x), -1), encode("".join(y)).astype(np.int64)
