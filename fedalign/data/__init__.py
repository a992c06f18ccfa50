"""Data sets in memory: labelled images or text as one value, and what every source offers."""

from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import torch

from fedalign.errors import InputError
from fedalign.rng import rng

Part = Literal["train", "test"]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images or text, whole in memory as bytes; who trains on images normalises.

    Attributes:
        images: `(N, C, H, W)` uint8, 0..255; of text `(N, L)` uint8, the codes of characters.
        labels: `(N,)` int64, 0..classes-1; of text the code of the character that follows.
        classes: Number of classes; of text the size of the vocabulary.
        mean: Mean of every channel on the 0..1 scale, over the training part; of text `()`.
        std: Standard deviation of every channel on the 0..1 scale, over the training part; of text
            `()`.
        source: A sentence for the run's manifest: which data, read from where, with which digest.
        groups: `(N,)` int64, whose each example is: its speaker's or writer's number, or its coarse
            label; None where the data says nothing of the kind. See `partitions.natural`.
        group_names: What group 0, 1, … is called; empty where they have no names.
    """

    images: torch.Tensor
    labels: torch.Tensor
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str
    groups: torch.Tensor | None = None
    group_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what is not a data set, so that a bad file is named here and not in training."""
        self._check_images()
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            found = f"{self.labels.dtype} {tuple(self.labels.shape)}"
            raise InputError(f"{self.source}: labels must be int64, one an image, not {found}")
        if len(self) == 0:
            raise InputError(f"{self.source}: there are no examples")
        if self.labels.min() < 0 or self.labels.max() >= self.classes:
            found = f"{int(self.labels.min())}..{int(self.labels.max())}"
            raise InputError(f"{self.source}: labels {found} outside 0..{self.classes - 1}")
        self._check_groups()

    def _check_images(self) -> None:
        wanted, axes = ("text", "(N, L)") if self.is_text else ("images", "(N, C, H, W)")
        if self.images.dtype != torch.uint8 or self.images.ndim != axes.count(",") + 1:
            found = f"{self.images.dtype} {tuple(self.images.shape)}"
            raise InputError(f"{self.source}: {wanted} must be uint8 {axes}, not {found}")
        if self.is_text:
            most = int(self.images.max()) if self.images.numel() else 0
            if most >= self.classes:
                raise InputError(f"{self.source}: code {most} outside 0..{self.classes - 1}")
        elif self.images.shape[1] != len(self.mean) or len(self.mean) != len(self.std):
            channels = f"{self.images.shape[1]} channels, not {len(self.mean)}"
            raise InputError(f"{self.source}: the images have {channels}")

    def _check_groups(self) -> None:
        if self.groups is None:
            return
        if self.groups.dtype != torch.int64 or self.groups.shape != self.labels.shape:
            found = f"{self.groups.dtype} {tuple(self.groups.shape)}"
            raise InputError(f"{self.source}: groups must be int64, one an example, not {found}")
        names, least, most = self.group_names, self.groups.min(), self.groups.max()
        if least < 0 or (names and most >= len(names)):
            found = f"{int(least)}..{int(most)}"
            raise InputError(f"{self.source}: groups {found}, with {len(names)} group names")

    @property
    def is_text(self) -> bool:
        """Whether the examples are text, which nobody normalises."""
        return not self.mean

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, rows: torch.Tensor | np.ndarray) -> "Dataset":
        """Return the examples with these numbers `(n,)`, in their order."""
        groups = None if self.groups is None else self.groups[rows]
        return replace(self, images=self.images[rows], labels=self.labels[rows], groups=groups)

    def subset(self, examples: int | None) -> "Dataset":
        """Return this many examples, always the same ones; all of them for None or too many.

        They are the first of a fixed permutation, so a smaller subset lies inside a larger one.
        """
        if examples is None or examples >= len(self):
            return self
        chosen = torch.from_numpy(rng(0, "subset").permutation(len(self))[:examples])
        source = f"{self.source}; a fixed random {examples} of its {len(self)} examples"
        return replace(self.at(chosen), source=source)


class Source(Protocol):
    """A data set as a part: its options are the parameters of its constructor."""

    def load(self, part: Part) -> Dataset:
        """Return the training or the test part; `max_examples` limits the training part only."""
        ...
