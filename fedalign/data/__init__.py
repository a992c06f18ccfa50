"""Data sets in memory: labelled images or text as one value, and the interface of a source."""

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
MAX_CLASSES = 1 << 16  # what a data folder may have: a layer has a row for each


@dataclass(frozen=True)
class Spec:
    """The form of the examples, which all clients of a federation share.

    Attributes:
        shape: Shape of an example: `(C, H, W)` for images, `(L,)` for text.
        classes: Number of classes; for text the size of the vocabulary.
        mean: Mean of every channel on the 0..1 scale; `()` for text.
        std: Standard deviation of every channel on the 0..1 scale, above 0; `()` for text.
        names: Names of the classes, in order; if empty, they are the numbers 0..classes-1.

    Raises:
        ValueError: An attribute has an impossible value; the message begins with its name.
    """

    shape: tuple[int, ...]
    classes: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check every attribute: a specification may come over the network or from a user."""
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
        """Whether the examples are text, which is not normalised."""
        return not self.mean

    @property
    def labels(self) -> tuple[str, ...]:
        """The label of every class: its name, or its number if classes have no names."""
        return self.names or tuple(map(str, range(self.classes)))

    def to_config(self) -> dict[str, int | list[int] | list[float] | list[str]]:
        """Return the specification as entries of a Flower `ConfigRecord`, without empty ones.

        The keys are `data-shape`, `data-classes`, `data-mean`, `data-std` and `data-names`.
        """
        entries = {f"data-{key}": value for key, value in asdict(self).items() if value != ()}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in entries.items()}

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Spec":
        """Return the specification that `to_config` has written; other keys are ignored.

        Raises:
            ValueError: A key is missing or its value is invalid; the message names the key.
        """
        values = {field.name: config.get(f"data-{field.name}", ()) for field in fields(cls)}
        try:
            return TypeAdapter(cls).validate_python(values)
        except ValidationError as error:
            first = error.errors()[0]
            place = "".join(f"{key}: " for key in first["loc"][:1])
            message = first["msg"].removeprefix("Value error, ")
            raise ValueError(f"data-{place}{message}") from None


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images or text, entirely in memory as bytes; images are normalised in training.

    Attributes:
        images: `(N, C, H, W)` uint8, 0..255; for text `(N, L)` uint8, the codes of characters.
        labels: `(N,)` int64, 0..classes-1; for text the code of the character that follows.
        classes: Number of classes; for text the size of the vocabulary.
        mean: Mean of every channel on the 0..1 scale, over the training part; `()` for text.
        std: Standard deviation of every channel on the 0..1 scale, over the training part; `()` for
            text.
        source: A sentence for the run's manifest: which data, read from where, with which digest.
        groups: `(N,)` int64, the group of each example: the number of its speaker or writer, or its
            coarse label; None if the data has no groups. See `partitions.natural`.
        group_names: Names of groups 0, 1, …; empty if they have none.
        class_names: Names of classes 0, 1, …; empty if they have none.
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
        """Check all fields, so that a bad file is reported when it is read and not in training."""
        self._check_images()
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            found = f"{self.labels.dtype} {tuple(self.labels.shape)}"
            raise InputError(
                f"{self.source}: labels must be int64, one for each image, not {found}"
            )
        if len(self) == 0:
            raise InputError(f"{self.source}: there are no examples")
        if self.labels.min() < 0 or self.labels.max() >= self.classes:
            found = f"{int(self.labels.min())}..{int(self.labels.max())}"
            raise InputError(f"{self.source}: labels {found} are outside 0..{self.classes - 1}")
        if self.class_names and len(self.class_names) != self.classes:
            found = f"{len(self.class_names)} class names"
            raise InputError(f"{self.source}: {found} for {self.classes} classes")
        self._check_groups()

    def _check_images(self) -> None:
        wanted, axes = ("text", "(N, L)") if self.is_text else ("images", "(N, C, H, W)")
        if self.images.dtype != torch.uint8 or self.images.ndim != axes.count(",") + 1:
            found = f"{self.images.dtype} {tuple(self.images.shape)}"
            raise InputError(f"{self.source}: {wanted} must be uint8 {axes}, not {found}")
        if self.is_text:
            most = int(self.images.max()) if self.images.numel() else 0
            if most >= self.classes:
                raise InputError(f"{self.source}: code {most} is outside 0..{self.classes - 1}")
        elif self.images.shape[1] != len(self.mean) or len(self.mean) != len(self.std):
            channels = f"{self.images.shape[1]} channels, not {len(self.mean)}"
            raise InputError(f"{self.source}: the images have {channels}")

    def _check_groups(self) -> None:
        if self.groups is None:
            return
        if self.groups.dtype != torch.int64 or self.groups.shape != self.labels.shape:
            found = f"{self.groups.dtype} {tuple(self.groups.shape)}"
            raise InputError(
                f"{self.source}: groups must be int64, one for each example, not {found}"
            )
        names, least, most = self.group_names, self.groups.min(), self.groups.max()
        if least < 0 or (names and most >= len(names)):
            found = f"{int(least)}..{int(most)}"
            raise InputError(f"{self.source}: groups {found} do not fit {len(names)} group names")

    @property
    def is_text(self) -> bool:
        """Whether the examples are text, which is not normalised."""
        return not self.mean

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example: `(C, H, W)`, or `(L,)` for text."""
        return tuple(self.images.shape[1:])

    @property
    def spec(self) -> Spec:
        """The form of the examples."""
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
        """Return the data of `to_numpy`; it shares the arrays' memory and must not write to it."""
        known = dict(fields)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "The given NumPy array is not writable")
            for key, value in fields.items():
                if isinstance(value, np.ndarray):
                    known[key] = torch.from_numpy(value)
        return cls(**known)

    @property
    def _tensors(self) -> dict[str, torch.Tensor]:
        """The fields that have one row for each example."""
        return {key: v for key, v in vars(self).items() if isinstance(v, torch.Tensor)}

    def subset(self, examples: int | None) -> "Dataset":
        """Return `examples` examples, always the same ones; all for None or more than there are.

        They are the first of a fixed permutation, so a larger subset contains a smaller one.
        """
        if examples is None or examples >= len(self):
            return self
        chosen = torch.from_numpy(rng(0, "subset").permutation(len(self))[:examples])
        source = f"{self.source}; a fixed random {examples} of its {len(self)} examples"
        return replace(self.at(chosen), source=source)
