"""Data sets in memory: labelled images as one value, and what every source of them offers."""

from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch

from fedalign.errors import InputError
from fedalign.rng import rng

Part = Literal["train", "test"]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images, whole in memory as bytes; who trains on them normalises.

    Attributes:
        images: `(N, C, H, W)` uint8, 0..255.
        labels: `(N,)` int64, 0..classes-1.
        classes: Number of classes.
        mean: Mean of every channel on the 0..1 scale, over the training part.
        std: Standard deviation of every channel on the 0..1 scale, over the training part.
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
        if self.images.dtype != torch.uint8 or self.images.ndim != 4:
            found = f"{self.images.dtype} {tuple(self.images.shape)}"
            raise InputError(f"{self.source}: images must be uint8 (N, C, H, W), not {found}")
        if self.images.shape[1] != len(self.mean) or len(self.mean) != len(self.std):
            channels = f"{self.images.shape[1]} channels, not {len(self.mean)}"
            raise InputError(f"{self.source}: the images have {channels}")
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            found = f"{self.labels.dtype} {tuple(self.labels.shape)}"
            raise InputError(f"{self.source}: labels must be int64, one an image, not {found}")
        if self.groups is not None and (
            self.groups.dtype != torch.int64 or self.groups.shape != self.labels.shape
        ):
            found = f"{self.groups.dtype} {tuple(self.groups.shape)}"
            raise InputError(f"{self.source}: groups must be int64, one an example, not {found}")
        if len(self) == 0:
            raise InputError(f"{self.source}: there are no examples")
        if self.labels.min() < 0 or self.labels.max() >= self.classes:
            found = f"{int(self.labels.min())}..{int(self.labels.max())}"
            raise InputError(f"{self.source}: labels {found} outside 0..{self.classes - 1}")

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, examples: int | None) -> "Dataset":
        """Return this many examples, always the same ones; all of them for None or too many.

        They are the first of a fixed permutation, so a smaller subset lies inside a larger one.
        """
        if examples is None or examples >= len(self):
            return self
        chosen = torch.from_numpy(rng(0, "subset").permutation(len(self))[:examples])
        source = f"{self.source}; a fixed random {examples} of its {len(self)} examples"
        groups = None if self.groups is None else self.groups[chosen]
        images, labels = self.images[chosen], self.labels[chosen]
        return replace(self, images=images, labels=labels, groups=groups, source=source)


class Source(Protocol):
    """A data set as a part: its options are the parameters of its constructor."""

    def load(self, part: Part) -> Dataset:
        """Return the training or the test part; `max_examples` limits the training part only."""
        ...
