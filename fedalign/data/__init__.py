"""Data sets in memory: labelled images or text as one value, and what every source offers."""

import math
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import torch
from pydantic import TypeAdapter, ValidationError

from fedalign.errors import InputError
from fedalign.rng import rng

Part = Literal["train", "test"]


@dataclass(frozen=True)
class Spec:
    """What every example of a federation looks like, whoever holds it.

    Attributes:
        shape: `(C, H, W)` of images; of text `(L,)`.
        classes: Number of classes; of text the size of the vocabulary.
        mean: Mean of every channel on the 0..1 scale; of text `()`.
        std: Standard deviation of every channel on the 0..1 scale, above 0; of text `()`.
        names: What the classes are called, in their order; empty: the numbers 0..classes-1.

    Raises:
        ValueError: There is no such example; the message begins with the attribute.
    """

    shape: tuple[int, ...]
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be: a specification comes from others, by wire or by hand."""
        if len(self.shape) != (1 if self.is_text else 3) or min(self.shape) < 1:
            wanted = "(L,) without a mean" if self.is_text else "(C, H, W)"
            raise ValueError(f"shape: {self.shape} must be {wanted}, each at least 1")
        if self.classes < 1:
            raise ValueError(f"classes: {self.classes} must be at least 1")
        channels = 0 if self.is_text else self.shape[0]
        for key, values in (("mean", self.mean), ("std", self.std)):
            if len(values) != channels or not all(map(math.isfinite, values)):
                raise ValueError(
                    f"{key}: {values} must be numbers, as many as channels: {channels}"
                )
        if self.std and min(self.std) <= 0:
            raise ValueError(f"std: {self.std} must be above 0")
        if self.names and not len(set(self.names)) == len(self.names) == self.classes:
            found = f"{len(self.names)} names, {len(set(self.names))} of them different"
            raise ValueError(f"names: {found}, for {self.classes} classes")

    @property
    def is_text(self) -> bool:
        """Whether the examples are text, which nobody normalises."""
        return not self.mean

    @property
    def labels(self) -> tuple[str, ...]:
        """What every class is called: its name, or its number where it has none."""
        return self.names or tuple(map(str, range(self.classes)))

    def to_config(self) -> dict[str, int | list[int] | list[float] | list[str]]:
        """Return the specification as a Flower `ConfigRecord` takes it; what is empty is left out.

        The keys are `data-shape`, `data-classes`, `data-mean`, `data-std` and `data-names`.
        """
        told = {f"data-{key}": value for key, value in asdict(self).items() if value != ()}
        return {k: list(value) if isinstance(value, tuple) else value for k, value in told.items()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Spec":
        """Return the specification that `to_config` has written; other keys are left alone.

        Raises:
            ValueError: A key is missing, or its value makes no sense; the message names it.
        """
        told = {field.name: config.get(f"data-{field.name}", ()) for field in fields(cls)}
        try:
            return TypeAdapter(cls).validate_python(told)
        except ValidationError as error:
            first = error.errors()[0]
            place = "".join(f"{key}: " for key in first["loc"][:1])
            message = first["msg"].removeprefix("Value error, ")
            raise ValueError(f"data-{place}{message}") from None


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
        class_names: What class 0, 1, … is called; empty where they have no names.
    """

    images: torch.Tensor
    labels: torch.Tensor
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    source: str
    groups: torch.Tensor | None = None
    group_names: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()

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
        if self.class_names and len(self.class_names) != self.classes:
            found = f"{len(self.class_names)} class names"
            raise InputError(f"{self.source}: {found}, for {self.classes} classes")
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

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example: `(C, H, W)`, of text `(L,)`."""
        return tuple(self.images.shape[1:])

    @property
    def spec(self) -> Spec:
        """What the examples look like."""
        return Spec(self.shape, self.classes, self.mean, self.std, self.class_names)

    def __len__(self) -> int:
        return len(self.labels)

    def at(self, rows: torch.Tensor | np.ndarray) -> "Dataset":
        """Return the examples with these numbers `(n,)`, in their order."""
        groups = None if self.groups is None else self.groups[rows]
        return replace(self, images=self.images[rows], labels=self.labels[rows], groups=groups)

    def to(self, device: torch.device) -> "Dataset":
        """Return the same data on a device."""
        moved: dict[str, Any] = {key: value.to(device) for key, value in self._tensors.items()}
        return replace(self, **moved)

    def to_numpy(self) -> dict[str, Any]:
        """Return the fields with NumPy arrays in place of tensors."""
        return vars(self) | {key: v.cpu().numpy() for key, v in self._tensors.items()}

    @classmethod
    def from_numpy(cls, fields: Mapping[str, Any]) -> "Dataset":
        """Return the data of `to_numpy`, of whose memory nothing is copied, nor to be written."""
        known = dict(fields)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            for key, value in fields.items():
                if isinstance(value, np.ndarray):
                    known[key] = torch.from_numpy(value)
        return cls(**known)

    @property
    def _tensors(self) -> dict[str, torch.Tensor]:
        """What there is by example."""
        return {key: v for key, v in vars(self).items() if isinstance(v, torch.Tensor)}

    def subset(self, examples: int | None) -> "Dataset":
        """Return this many examples, always the same ones; all of them for None or too many.

        They are the first of a fixed permutation, so a smaller subset lies inside a larger one.
        """
        if examples is None or examples >= len(self):
            return self
        chosen = torch.from_numpy(rng(0, "subset").permutation(len(self))[:examples])
        source = f"{self.source}; a fixed random {examples} of its {len(self)} examples"
        return replace(self.at(chosen), source=source)
