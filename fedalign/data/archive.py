"""Users' own images, or rows of a table, in a NumPy archive."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedalign.data import MAX_CLASSES, Spec
from fedalign.data.demands import check_shape, numbers
from fedalign.data.formats import Array, names_in, read_arrays
from fedalign.data.pictures import CHANNELS
from fedalign.errors import InputError

BLOCK = 256  # images that are converted at a time


@dataclass(frozen=True)
class Archive:
    """An .npz file with the arrays `images` and `labels`, or `x` and `y`; nothing is unpickled.

    Bytes with three or four axes are images; numbers with two are the rows of a table.

    Attributes:
        place: the file.
        wanted: the shape of an example if it is known; of an image it tells which axis holds the
            channels.
    """

    place: Path
    wanted: tuple[int, ...] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of an image, `(C, H, W)`, or of a row, `(F,)`."""
        return self._images.shape[1:]

    def labels(self) -> set[str] | int:
        """Return the set of labels that are strings, or of numbers the largest plus 1."""
        if self._labels.dtype.kind == "U":
            return set(np.unique(self._labels).tolist())
        most = int(self._labels.max()) if len(self._labels) else -1
        if most >= MAX_CLASSES:
            raise InputError(
                f"{self.place}: {self._keys[1]} holds {most}, and a label is at most "
                f"{MAX_CLASSES - 1}"
            )
        return most + 1

    def read(self, spec: Spec, whose: str) -> tuple[Tensor, Tensor]:
        """Return images and labels in the order of the archive; see `forms.Form`."""
        check_shape(self.place, self.shape, spec, whose)
        if len(self._labels) != len(self._images):
            found = f"{len(self._images)} examples and {len(self._labels)} labels"
            raise InputError(f"{self.place}: {found}")
        return torch.from_numpy(self._images), torch.from_numpy(self._numbered(spec, whose))

    def _numbered(self, spec: Spec, whose: str) -> Array:
        labels, place = self._labels, f"{self.place}: {self._keys[1]}"
        if labels.dtype.kind == "U":
            names, rows = np.unique(labels, return_inverse=True)
            number = numbers(dict.fromkeys(names.tolist(), place), spec, whose)
            return np.array([number[name] for name in names.tolist()], np.int64)[rows]
        least, most = labels.min(), labels.max()
        if least < 0 or most >= spec.classes:
            allowed = f"{whose} has {spec.classes} classes, 0..{spec.classes - 1}"
            raise InputError(f"{place} {least}..{most}, and {allowed}")
        return labels.astype(np.int64)

    @cached_property
    def _keys(self) -> tuple[str, str]:
        stored = names_in(self.place)
        return ("x", "y") if "x" in stored and "images" not in stored else ("images", "labels")

    @cached_property
    def _images(self) -> Array:
        """Bytes `(N, C, H, W)`, or float32 `(N, F)`."""
        (images,) = read_arrays(self.place, self._keys[:1])
        is_table = images.ndim == 2 and images.dtype.kind in "iuf" and images.shape[1]
        if not is_table and (images.dtype != np.uint8 or images.ndim not in (3, 4)):
            found = f"{images.dtype} {images.shape}"
            wanted = (
                "uint8 (N, H, W), (N, H, W, C) or (N, C, H, W), or the numbers (N, F) of a table"
            )
            raise InputError(f"{self.place}: {self._keys[0]} must be {wanted}, not {found}")
        if not len(images):
            raise InputError(f"{self.place}: there are no examples")
        if is_table:
            return self._finite(images)
        return _channels_first(self.place, images, self.wanted)

    def _finite(self, rows: Array) -> Array:
        with np.errstate(over="ignore"):  # a number too large for float32 becomes infinite
            floats = np.ascontiguousarray(rows, np.float32)
        if not np.isfinite(floats).all():
            row, feature = np.argwhere(~np.isfinite(floats))[0]
            found = f"feature {feature} of row {row} is {rows[row, feature]}"
            raise InputError(f"{self.place}: {found}, not a finite number of 32 bits")
        return floats

    @cached_property
    def _labels(self) -> Array:
        """Whole numbers or strings `(N,)`."""
        (labels,) = read_arrays(self.place, self._keys[1:])
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if labels.dtype.kind not in "iuU" or labels.ndim != 1:
            found = f"{labels.dtype} {labels.shape}"
            wanted = "whole numbers or strings (N,)"
            raise InputError(f"{self.place}: {self._keys[1]} must be {wanted}, not {found}")
        return labels


def _channels_first(place: Path, images: Array, wanted: tuple[int, ...] | None) -> Array:
    """Return `(N, C, H, W)`, in the same memory.

    Raises:
        InputError: More than one axis, or none, could hold the channels.
    """
    images = np.ascontiguousarray(images)
    if images.ndim == 3:
        return images[:, None]
    count, *axes = images.shape
    both = [tuple(axes), (axes[2], axes[0], axes[1])]
    fits = [i for i in (0, 1) if both[i] == wanted]
    fits = fits or [i for i in (0, 1) if both[i][0] in CHANNELS.values()]
    if len(fits) != 1:
        needed = "1 or 3 channels either first or last; data.image_shape can say which"
        raise InputError(f"{place}: images {images.shape} must have {needed}")
    return images if fits == [0] else _turned(images, (count, *both[1]))


def _turned(images: Array, shape: tuple[int, ...]) -> Array:
    """Return `(N, H, W, C)` as `shape` `(N, C, H, W)`, in place: a copy may not fit in memory."""
    turned = images.reshape(shape)
    for start in range(0, len(images), BLOCK):
        rows = slice(start, start + BLOCK)
        turned[rows] = images[rows].transpose(0, 3, 1, 2).copy()
    return turned
