"""Text as a data set: windows of characters, and for each the character that follows (LEAF)."""

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

Window = Annotated[int, Field(ge=1, description="Characters that an example is; LEAF has 80.")]
Stride = Annotated[int, Field(ge=1, description="Characters from one example to the next.")]
TestShare = Annotated[
    float, Field(gt=0, lt=1, description="The end of each speaker's text that is the test part.")
]
MinCharacters = Annotated[
    int, Field(ge=1, description="Speakers with less text than this are left out.")
]


@dataclass(frozen=True)
class Cut:
    """How the texts of speakers become examples; see the options of the same names."""

    window: int
    stride: int
    test_share: float
    min_characters: int


def encode(text: str) -> Codes:
    """Return the code of each character, 0..80."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
    codes: Codes = _TABLE[np.minimum(points, len(_TABLE) - 1)]
    return codes


def windows(codes: Codes, length: int, stride: int) -> tuple[Codes, Codes]:
    """Return stretches `(n, length)` of a text, and what follows each, `(n,)`; too short: n = 0."""
    if len(codes) <= length:
        return np.empty((0, length), np.uint8), np.empty(0, np.uint8)
    found = np.lib.stride_tricks.sliding_window_view(codes, length + 1)[::stride]
    return found[:, :-1], found[:, -1]


def by_speaker(texts: Mapping[str, str], part: Part, cut: Cut, source: str) -> Dataset:
    """Return one part of what speakers say, who are the groups.

    The end of each speaker's text is the test part, so that it comes after the training part, and
    no window looks across the cut. Speakers of both parts are the same, those with at least
    `cut.min_characters` and a window to train on.

    Raises:
        InputError: no speaker has that much.
    """
    kept, parts = [], []
    for speaker, text in texts.items():
        codes, end = encode(text), round(len(text) * (1 - cut.test_share))
        if len(text) >= cut.min_characters and end > cut.window:
            own = codes[:end] if part == "train" else codes[end:]
            kept.append(speaker)
            parts.append(windows(own, cut.window, cut.stride))
    if not kept:
        wanted = f"{cut.min_characters} characters, {cut.window + 1} of them to train on"
        told = f"none of {len(texts)} speakers has {wanted}"
        raise InputError(f"data.min_characters: {told}; {source}")
    about = f"{len(kept)} of {len(texts)} speakers, windows of {cut.window}, stride {cut.stride}"
    return text_dataset(kept, parts, f"{source}, {part} part: {about}")


def text_dataset(names: list[str], parts: list[tuple[Codes, Codes]], source: str) -> Dataset:
    """Return the data set of windows `(n, L)` and what follows `(n,)`, a pair for each name."""
    x, y = (np.concatenate(own) for own in zip(*parts, strict=True))
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
    """Return the code of each of Unicode's first 129 characters; the last stands for the rest."""
    table = np.full(129, UNKNOWN, np.uint8)
    table[[ord(letter) for letter in LETTERS]] = np.arange(UNKNOWN)
    return table


_TABLE = _table()
