"""Text as a data set: windows of characters, each labelled with the next character (LEAF)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field

from fedalign.data import Dataset, Part
from fedalign.errors import InputError

# The 80 characters of LEAF's Shakespeare task (Caldas et al. 2018, arXiv 1812.01097), by code.
LETTERS = "\n !\"&'(),-.0123456789:;>?ABCDEFGHIJKLMNOPQRSTUVWXYZ[]abcdefghijklmnopqrstuvwxyz}"
UNKNOWN = len(LETTERS)  # the code of any other character
VOCABULARY = UNKNOWN + 1

Codes = npt.NDArray[np.uint8]

Window = Annotated[int, Field(ge=1, description="Characters in an example; 80 in LEAF.")]
Stride = Annotated[
    int, Field(ge=1, description="Characters from the start of one example to the next.")
]
TestShare = Annotated[
    float,
    Field(gt=0, lt=1, description="Share of each speaker's text, at its end, that is for tests."),
]
MinCharacters = Annotated[int, Field(ge=1, description="Speakers with less text are left out.")]


@dataclass(frozen=True)
class Cut:
    """Options of text data sets: how the texts of speakers are cut into examples."""

    window: Window = 80
    stride: Stride = 1
    test_share: TestShare = 0.2
    min_characters: MinCharacters = 1000


def encode(text: str) -> Codes:
    """Return the code of each character, 0..80, as `(len(text),)` uint8.

    >>> encode(" Z}€").tolist()
    [1, 50, 79, 80]
    """
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    codes: Codes = _TABLE[np.minimum(points, len(_TABLE) - 1)]
    return codes


def windows(codes: Codes, length: int, stride: int) -> tuple[Codes, Codes]:
    """Return windows `(n, length)` of a text and the code that follows each, `(n,)`.

    A text of at most `length` characters has no window: n = 0.

    >>> x, y = windows(np.arange(6, dtype=np.uint8), length=3, stride=2)
    >>> x.tolist(), y.tolist()
    ([[0, 1, 2], [2, 3, 4]], [3, 5])
    """
    if len(codes) <= length:
        return np.empty((0, length), np.uint8), np.empty(0, np.uint8)
    views = np.lib.stride_tricks.sliding_window_view(codes, length + 1)[::stride]
    return views[:, :-1], views[:, -1]


def by_speaker(texts: Mapping[str, str], part: Part, cut: Cut, source: str) -> Dataset:
    """Return one part of what speakers say; each speaker is a group.

    The test part is the end of each speaker's text, so it comes after the training part, and no
    window crosses the border. Both parts have the same speakers: those with at least
    `cut.min_characters` characters and one window to train on.

    Raises:
        InputError: No speaker has enough text.
    """
    speakers, parts = [], []
    for speaker, text in texts.items():
        codes, end = encode(text), round(len(text) * (1 - cut.test_share))
        if len(text) >= cut.min_characters and end > cut.window:
            codes = codes[:end] if part == "train" else codes[end:]
            speakers.append(speaker)
            parts.append(windows(codes, cut.window, cut.stride))
    if not speakers:
        needed = f"{cut.min_characters} characters, {cut.window + 1} of them to train on"
        reason = f"none of {len(texts)} speakers has {needed}"
        raise InputError(f"data.min_characters: {reason}; {source}")
    count = f"{len(speakers)} of {len(texts)} speakers"
    about = f"{count}, windows of {cut.window}, stride {cut.stride}"
    return text_dataset(speakers, parts, f"{source}, {part} part: {about}")


def text_dataset(names: list[str], parts: list[tuple[Codes, Codes]], source: str) -> Dataset:
    """Return the data set made of windows `(n, L)` and next codes `(n,)`, a pair for each name."""
    x, y = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    owner = np.repeat(np.arange(len(names)), [len(labels) for _, labels in parts])
    return Dataset(
        images=torch.from_numpy(x),
        labels=torch.from_numpy(y.astype(np.int64)),
        classes=VOCABULARY,
        mean=(),
        std=(),
        source=source,
        groups=torch.from_numpy(owner),
        group_names=tuple(names),
    )


def _table() -> npt.NDArray[Any]:
    """Return the code of each of Unicode's first 129 characters; the last one is for all others."""
    table = np.full(129, UNKNOWN, np.uint8)
    table[[ord(letter) for letter in LETTERS]] = np.arange(UNKNOWN)
    return table


_TABLE = _table()
