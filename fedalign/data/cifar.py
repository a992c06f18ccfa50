"""CIFAR-10 and CIFAR-100: 50,000 + 10,000 colour images of 32x32 (Krizhevsky 2009)."""

import hashlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from fedalign.data import Dataset, Part
from fedalign.data.formats import Array, Arrays, read_arrays, read_npz
from fedalign.data.places import Download, Folder, MaxExamples, find
from fedalign.errors import InputError


@dataclass(frozen=True)
class CIFAR10:
    """Colour photographs: 50,000 + 10,000 images of 32x32 in 10 classes (Krizhevsky 2009)."""

    dir: Folder = None
    max_examples: MaxExamples = None
    download: Download = True

    def load(self, part: Part) -> Dataset:
        """Return one part, from the first place that has it; see `places.find`."""
        return _load(_TEN, part, self.dir, self.max_examples, self.download)


@dataclass(frozen=True)
class CIFAR100:
    """Colour photographs: 50,000 + 10,000 images of 32x32 in 100 classes (Krizhevsky 2009).

    Groups are the 20 superclasses, five classes each.
    """

    dir: Folder = None
    max_examples: MaxExamples = None
    download: Download = True

    def load(self, part: Part) -> Dataset:
        """Return one part, from the first place that has it; see `places.find`."""
        return _load(_HUNDRED, part, self.dir, self.max_examples, self.download)


@dataclass(frozen=True)
class _Official:
    """Facts of one data set; `batches` is the folder of the official Python pickles."""

    classes: int
    batches: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    superclasses: str = ""  # the superclass of each class, in order

    @property
    def name(self) -> str:
        return f"cifar{self.classes}"


_TEN = _Official(
    classes=10,
    batches="cifar-10-batches-py",
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
)
_HUNDRED = _Official(
    classes=100,
    batches="cifar-100-python",
    mean=(0.5071, 0.4866, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
    superclasses="4 1 14 8 0 6 7 7 18 3 3 14 9 18 7 11 3 9 7 11 6 11 5 10 7 6 13 15 3 15 0 11 1 10 "
    "12 14 16 9 11 5 5 19 8 8 15 13 14 17 18 10 16 4 17 4 2 0 17 4 18 17 10 3 2 12 12 16 12 1 9 19 "
    "2 10 0 1 16 12 9 13 15 13 16 19 2 4 6 19 5 5 8 19 18 1 2 15 6 0 17 8 14 13",
)


def _load(
    kind: _Official, part: Part, dir: str | None, max_examples: int | None, download: bool
) -> Dataset:
    layouts = [(kind.batches,), (f"{kind.name}.npz",), (f"{kind.name}_jpeg75.npz",)]

    def fetch(folder: Path) -> object:
        return _torchvision(kind, folder, part, download=True)

    found = find(kind.name, layouts, dir, fetch if download else None)
    images, labels, form = _read(kind, found.files[0], part)
    if images.ndim != 4 or images.dtype != np.uint8 or labels.dtype.kind not in "iu":
        raise InputError(f"{found}: images must be uint8 (N, H, W, 3), labels whole numbers")
    pixels = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    digest = hashlib.sha256(pixels.data).hexdigest()
    coarse = np.array(kind.superclasses.split(), np.int64)
    groups = torch.from_numpy(coarse.take(labels, mode="clip")) if len(coarse) else None
    dataset = Dataset(
        images=torch.from_numpy(pixels),
        labels=torch.from_numpy(labels.astype(np.int64)),
        classes=kind.classes,
        mean=kind.mean,
        std=kind.std,
        source=f"CIFAR-{kind.classes}, {form}, {part} part, from {found}, pixels SHA-256 {digest}",
        groups=groups,
    )
    return dataset.subset(max_examples) if part == "train" else dataset


def _read(kind: _Official, path: Path, part: Part) -> tuple[Array, Array, str]:
    if path.name == kind.batches:
        try:
            data = _torchvision(kind, path.parent, part, download=False)
        except (OSError, RuntimeError) as error:
            wrong = "damaged, or not the official files (torchvision checks their MD5)"
            raise InputError(f"{path}: {wrong}; delete it or set another data.dir") from error
        return data.data, np.asarray(data.targets), "official files with verified MD5"
    if path.stem.endswith("_jpeg75"):
        return *_read_jpeg(path, part), "JPEG quality 75"
    return *read_npz(path, part), "NumPy archive"


def _torchvision(kind: _Official, folder: Path, part: Part, download: bool) -> Any:
    # Imported here because it takes a second. It checks MD5s before it opens any pickle.
    from torchvision import datasets

    loader = getattr(datasets, kind.name.upper())
    return loader(folder, train=part == "train", download=download)


def _read_jpeg(path: Path, part: Part) -> Arrays:
    """Return decoded images `(N, H, W, 3)` and labels of one part.

    The archive holds `jpeg`, the concatenated files of all images; `offset` `(N + 1,)`, where each
    begins and ends; `label` `(N,)`; and `train` `(N,)`, true for the training part.
    """
    jpeg, offset, label, train = read_arrays(path, ("jpeg", "offset", "label", "train"))
    chosen = np.flatnonzero(train == (part == "train"))
    try:
        files = [BytesIO(jpeg[offset[i] : offset[i + 1]].tobytes()) for i in chosen]
        images = [np.asarray(Image.open(file).convert("RGB")) for file in files]
        return np.stack(images), label[chosen]
    except (OSError, ValueError, IndexError) as error:
        raise InputError(f"{path}: damaged JPEG archive: {error}") from error
