"""MNIST and Fashion-MNIST, which are stored as idx files."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from fedalign.data import Dataset, Part
from fedalign.data.formats import Array, Arrays, idx_md5, read_idx, read_npz
from fedalign.data.places import Download, Folder, Found, MaxExamples, find
from fedalign.errors import InputError


@dataclass(frozen=True)
class MNIST:
    """Handwritten digits: 60,000 + 10,000 grey images of 28x28 (LeCun et al. 1998)."""

    dir: Folder = None
    max_examples: MaxExamples = None
    download: Download = True

    def load(self, part: Part) -> Dataset:
        """Return one part, from the first place that has it; see `places.find`."""
        return _load(_MNIST, part, self.dir, self.max_examples, self.download)


@dataclass(frozen=True)
class FashionMNIST:
    """Pictures of clothes: 60,000 + 10,000 grey images of 28x28 (Xiao et al. 2017)."""

    dir: Folder = None
    max_examples: MaxExamples = None
    download: Download = True

    def load(self, part: Part) -> Dataset:
        """Return one part, from the first place that has it; see `places.find`."""
        return _load(_FASHION, part, self.dir, self.max_examples, self.download)


@dataclass(frozen=True)
class _Official:
    """Facts of a data set in MNIST's format; `md5` is of the uncompressed idx files."""

    name: str
    title: str
    mean: float
    std: float
    md5: dict[Part, tuple[str, str]]

    @property
    def torchvision(self) -> str:
        """Torchvision's name of the class and of its folder."""
        return self.title.replace("-", "")


_MNIST = _Official(
    name="mnist",
    title="MNIST",
    mean=0.1307,
    std=0.3081,
    md5={
        "train": ("6bbc9ace898e44ae57da46a324031adb", "a25bea736e30d166cdddb491f175f624"),
        "test": ("2646ac647ad5339dbf082846283269ea", "27ae3e4e09519cfbb04c329615203637"),
    },
)
_FASHION = _Official(
    name="fashion-mnist",
    title="Fashion-MNIST",
    mean=0.2860,
    std=0.3530,
    md5={
        "train": ("f4a8712d7a061bf5bd6d2ca38dc4d50a", "9018921c3c673c538a1fc5bad174d6f9"),
        "test": ("8181f5470baa50b63fa0f6fddb340f0a", "15d484375f8d13e6eb1aabb0c3f46965"),
    },
)


def _load(
    kind: _Official, part: Part, dir: str | None, max_examples: int | None, download: bool
) -> Dataset:
    found = find(kind.name, _layouts(kind, part), dir, _fetch(kind) if download else None)
    images, labels = _read(found, part)
    if images.ndim != 3 or images.dtype != np.uint8 or labels.dtype.kind not in "iu":
        raise InputError(f"{found}: images must be uint8 (N, H, W), labels whole numbers")
    digest = _digest(kind, found, part, images, labels)
    dataset = Dataset(
        images=torch.from_numpy(images[:, None].copy()),
        labels=torch.from_numpy(labels.astype(np.int64)),
        classes=10,
        mean=(kind.mean,),
        std=(kind.std,),
        source=f"{kind.title}, {part} part, from {found}, {digest}",
    )
    return dataset.subset(max_examples) if part == "train" else dataset


def _layouts(kind: _Official, part: Part) -> list[tuple[str, ...]]:
    prefix = "train" if part == "train" else "t10k"
    pair = (f"{prefix}-images-idx3-ubyte", f"{prefix}-labels-idx1-ubyte")
    packed = tuple(f"{file}.gz" for file in pair)
    raw = f"{kind.torchvision}/raw"
    inside = [tuple(f"{raw}/{file}" for file in files) for files in (pair, packed)]
    return [pair, packed, *inside, (f"{kind.name}.npz",)]


def _read(found: Found, part: Part) -> Arrays:
    if found.files[0].suffix == ".npz":
        return read_npz(found.files[0], part)
    images, labels = (read_idx(file) for file in found.files)
    return images, labels


def _digest(kind: _Official, found: Found, part: Part, images: Array, labels: Array) -> str:
    digests = (idx_md5(images), idx_md5(labels.astype(np.uint8)))
    for other in (_MNIST, _FASHION):
        # Both have the same file names and sizes, so a wrong folder would go unnoticed.
        if other is not kind and digests == other.md5[part]:
            raise InputError(
                f"data: {found} holds {other.title}, not {kind.title}; "
                f"keep them in separate subfolders, {kind.name}/ and {other.name}/"
            )
    official = digests == kind.md5[part]
    verdict = "unpacked MD5 verified" if official else "unpacked MD5 unlike the official files'"
    return f"{verdict}: images {digests[0]}, labels {digests[1]}"


def _fetch(kind: _Official) -> Callable[[Path], object]:
    def fetch(folder: Path) -> object:
        # Imported here because the import takes a second and few runs download anything.
        from torchvision import datasets

        return getattr(datasets, kind.torchvision)(folder, download=True)

    return fetch
