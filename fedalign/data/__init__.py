"""Data sets in memory: labelled images, text or tables as one value, and what its examples are."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from fedalign.data.spec import MAX_CLASSES, PAD, Spec
from fedalign.errors import InputError
from fedalign.rng import rng

Part = Literal["train", "test"]
__all__ = ["MAX_CLASSES", "PAD", "Dataset", "Part", "Spec"]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled examples, entirely in memory: images, text, or rows of a table.

    Images and rows are stored as they are. Networks see them normalised: an image as
    `(bytes / 255 - mean) / std` for each channel, a row as `(x - mean) / std` for each feature.
    The test part has the mean and standard deviation of the training part.

    Attributes:
        images: The examples. Images are `(N, C, H, W)` uint8, 0..255; text is `(N, L)`, either
            uint8, the codes of characters, or int32 or int64, the numbers of tokens, filled up with
            `PAD`; a table is `(N, F)` float32, finite.
        labels: `(N,)` int64, 0..classes-1; for text of characters the code of the one that follows.
        classes: Number of classes; for text of characters the size of the vocabulary.
        mean: For images the mean of every channel on the 0..1 scale, for a table the mean of every
            feature, over the training part; `()` for text.
        std: The standard deviations, above 0, in the same way; `()` for text.
        source: A sentence for the run's manifest: which data, read from where, with which digest.
        groups: `(N,)` int64, the group of each example: the number of its speaker or writer, or its
            coarse label; None if the data has no groups. See `partitions.natural`.
        group_names: Names of groups 0, 1, …; empty if they have none.
        class_names: Names of classes 0, 1, …; empty if they have none.
        vocabulary: For text of tokens how many there are; else None.
        label_sets: The task of each class, see `Spec`; empty if all are of one task.

    Raises:
        InputError: A field has another type, shape or range; the message begins with `source`.
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
    vocabulary: int | None = None
    label_sets: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check all fields, so that a bad file is reported when it is read and not in training."""
        for key in ("images", "labels"):
            if not isinstance(given := getattr(self, key), torch.Tensor):
                found = f"a {type(given).__name__}; torch.from_numpy makes one of an array"
                raise InputError(f"{self.source}: {key} must be a tensor, not {found}")
        self._check_images()
        if self.labels.dtype != torch.int64 or self.labels.shape != self.images.shape[:1]:
            found = _described(self.labels)
            raise InputError(
                f"{self.source}: labels must be int64 ({len(self.images)},), one for each "
                f"example, not {found}"
            )
        if len(self) == 0:
            raise InputError(f"{self.source}: there are no examples")
        if self.labels.min() < 0 or self.labels.max() >= self.classes:
            found = f"{int(self.labels.min())}..{int(self.labels.max())}"
            raise InputError(f"{self.source}: labels {found} are outside 0..{self.classes - 1}")
        try:
            self.spec  # noqa: B018
        except ValueError as error:
            raise InputError(f"{self.source}: {error}") from None
        self._check_groups()

    def _check_images(self) -> None:
        tokens = self.is_text and self.vocabulary is not None
        wanted = {
            (torch.uint8, 2): self.is_text and not tokens,
            (torch.int32, 2): tokens,
            (torch.int64, 2): tokens,
            (torch.uint8, 4): not self.is_text,
            (torch.float32, 2): not self.is_text,
        }
        if not wanted.get((self.images.dtype, self.images.ndim)):
            forms = "uint8 (N, C, H, W) for images or float32 (N, F) for a table"
            forms = "uint8 (N, L) for text, which has no mean" if self.is_text else forms
            forms = "int32 or int64 (N, L) for text with a vocabulary" if tokens else forms
            found = _described(self.images)
            raise InputError(f"{self.source}: images must be {forms}, not {found}")
        if self.is_text and self.images.numel():
            least, most = int(self.images.min()), int(self.images.max())
            count = self.classes if self.vocabulary is None else self.vocabulary
            if least < 0 or most >= count:
                found = f"{'token' if tokens else 'code'} {least if least < 0 else most}"
                raise InputError(f"{self.source}: {found} is outside 0..{count - 1}")
        elif self.images.ndim == 2 and not self.images.isfinite().all():
            row, feature = (~self.images.isfinite()).nonzero()[0].tolist()
            value = float(self.images[row, feature])
            raise InputError(f"{self.source}: feature {feature} of example {row} is {value}")

    def _check_groups(self) -> None:
        if self.groups is None:
            return
        if self.groups.dtype != torch.int64 or self.groups.shape != self.labels.shape:
            found = _described(self.groups)
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
        """The shape of one example: `(C, H, W)`, `(L,)` for text, `(F,)` for a row of a table."""
        return tuple(self.images.shape[1:])

    @property
    def spec(self) -> Spec:
        """The form of the examples."""
        form = self.shape, self.classes, self.mean, self.std, self.class_names
        return Spec(*form, self.vocabulary, self.label_sets)

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


def _described(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
