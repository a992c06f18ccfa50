"""A user's own images, in a folder: for a simulation, or what one node of a federation has."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor

from fedalign.data import Dataset, Part, Spec
from fedalign.data.archive import BLOCK
from fedalign.data.forms import FORMS, Form, find, has
from fedalign.data.places import MaxExamples
from fedalign.errors import InputError

MEASURED = "measured on the training part if not given"
Text = Field(coerce_numbers_to_str=True)  # a single number is one in YAML


@dataclass(frozen=True)
class FolderData:
    """Your own images, in a folder: NumPy archives, a folder for each class, or CSV files.

    Each part, train and test, comes as `train.npz` with `images` (uint8) and `labels`, as image
    files `train/<class>/*.png`, or as `train.csv` with the columns `file` and `label`. The folders
    of classes may also lie in the folder itself; they are the training part then. Images are grey
    or colour, of 8 bits, and all of one size. With `labels` and `image_shape` given, it
    is known without a training part what the federation trains on.
    """

    dir: Annotated[str | None, Field(description="Folder that holds the data.")] = None
    labels: Annotated[
        str | None,
        Text,
        Field(
            description="What the classes are called, in order: names with commas, or with spaces "
            "where no name has any; or how many numbers, from 0. Those in the folder, sorted, if "
            "not given."
        ),
    ] = None
    image_shape: Annotated[
        str | None,
        Field(
            pattern=r"^[1-9]\d*x[1-9]\d*x[1-9]\d*$",
            description="Channels x height x width, such as 1x28x28; of the first image if not "
            "given.",
        ),
    ] = None
    mean: Annotated[
        str | None, Text, Field(description=f"Of each channel, on the 0..1 scale; {MEASURED}.")
    ] = None
    std: Annotated[
        str | None, Text, Field(description=f"Of each channel, on the 0..1 scale; {MEASURED}.")
    ] = None
    max_examples: MaxExamples = None

    def load(self, part: Part) -> Dataset:
        """Return the training or the test part.

        Raises:
            InputError: it is not there, or not as the options say, or its files are damaged.
        """
        if part == "train":
            found = self._train
        else:
            found = read_folder(self._folder, part, self.spec()) if self.has(part) else None
        if found is None:
            forms = FORMS.format(part=part)
            also = " (or <class>/ alone)" if part == "train" else ""
            raise InputError(
                f"data.dir: {str(self._folder)!r} has no {part} part; looked for {forms}{also}"
            )
        return found

    def has(self, part: Part) -> bool:
        """Return whether the folder has such a part; without a folder there is none."""
        return self.dir is not None and has(self._folder, part)

    def spec(self) -> Spec:
        """Return what every example looks like, from the options as far as they say it.

        What they leave out is that of the training part. Where there is none, `labels` and
        `image_shape` must be given, and `mean` and `std` are 0.5.
        """
        told = self._told
        if {"shape", "classes", "mean", "std"} <= told.keys():
            return _spec(told)
        if self.has("train"):
            return self.load("train").spec
        needed = {"data.labels": self.labels, "data.image_shape": self.image_shape}
        if missing := [key for key, option in needed.items() if option is None]:
            raise InputError(
                f"{' and '.join(missing)} must be given where there is no training part: it would "
                f"say what the federation trains on, and data.dir is {self.dir!r}"
            )
        return _spec(told)

    @property
    def _folder(self) -> Path:
        if self.dir is None:
            raise InputError("data.dir: must be given, the folder that holds the data")
        folder = Path(self.dir).expanduser()
        if not folder.is_dir():
            raise InputError(f"data.dir: {self.dir!r} is not a folder")
        return folder

    @property
    def _told(self) -> dict[str, Any]:
        """What the options say of a `Spec`, by its attributes."""
        told: dict[str, Any] = {}
        if self.image_shape is not None:
            told["shape"] = tuple(map(int, self.image_shape.split("x")))
        if self.labels is not None:
            told |= _classes(self.labels)
        for key, text in (("mean", self.mean), ("std", self.std)):
            if text is not None:
                told[key] = _numbers(key, text)
        return told

    @cached_property
    def _train(self) -> Dataset | None:
        """The training part, read once: it says what the others are like."""
        found = _training(self._folder, self._told)
        return None if found is None else found.subset(self.max_examples)


def read_folder(folder: Path, part: Part, spec: Spec | None) -> Dataset | None:
    """Return one part of the images in a folder; None if it has no such part.

    The forms are those of `FolderData`. Images of folders are sorted by class and name, others
    stay in the order of their file.

    Args:
        folder: holds the data.
        part: which part.
        spec: what the federation has, which may be more classes; None: what the training part has.

    Raises:
        InputError: a file is damaged, something is not as `spec` has it, or a part comes in two
            forms; or there is no training part to go by.
    """
    if spec is not None and spec.is_text:
        raise InputError(f"{folder}: a folder holds images, and the federation has text")
    form = find(folder, part, spec.shape if spec else None)
    if form is None:
        return None
    if spec is not None:
        return _dataset(form, part, spec, *form.read(spec, "the federation"))
    train = _training(folder, {})
    if train is None:
        raise InputError(f"{folder}: no training part says what the test part is to be like")
    if part == "train":
        return train
    return _dataset(form, part, train.spec, *form.read(train.spec, "the training part"))


def _training(folder: Path, told: dict[str, Any]) -> Dataset | None:
    """Return the training part, as far as `told` like it; it says the rest of its `Spec`."""
    form = find(folder, "train", told.get("shape"))
    if form is None:
        return None
    found = {"shape": form.shape} | told
    if "classes" not in told:
        found |= _named(folder, [form, find(folder, "test", found["shape"])])
    images, labels = form.read(_spec(found), "the federation" if told else "the training part")
    if not {"mean", "std"} <= told.keys():
        found = found | _measured(images) | told
    return _dataset(form, "train", _spec(found), images, labels)


def _dataset(form: Form, part: Part, spec: Spec, images: Tensor, labels: Tensor) -> Dataset:
    digest = hashlib.sha256(images.numpy().data)
    digest.update(labels.numpy().data)
    return Dataset(
        images=images,
        labels=labels,
        classes=spec.classes,
        mean=spec.mean,
        std=spec.std,
        source=f"own images, {part} part, from {form.place}, SHA-256 {digest.hexdigest()}",
        class_names=spec.names,
    )


def _spec(told: dict[str, Any]) -> Spec:
    """Return the `Spec` of these attributes; mean and std are 0.5 where they are not told."""
    half = (0.5,) * told["shape"][0]
    try:
        return Spec(**({"mean": half, "std": half} | told))
    except ValueError as error:
        raise InputError(f"data.{error}") from None


def _named(folder: Path, forms: Iterable[Form | None]) -> dict[str, Any]:
    """Return number and names of the classes in all parts together."""
    told = [form.labels() for form in forms if form]
    names = sorted(set().union(*(own for own in told if isinstance(own, set))))
    if all(name.isdecimal() for name in names):
        names.sort(key=lambda name: (int(name), name))
    numbered = names == list(map(str, range(len(names))))
    most = max([own for own in told if isinstance(own, int)], default=0)
    classes = max(len(names), most) if numbered else len(names)
    if classes < 2:
        found = f"one class, {names[0]!r}" if names else "one class, 0"
        raise InputError(f"{folder}: {found}; there must be two")
    return {"classes": classes, "names": () if numbered else tuple(names)}


def _measured(images: Tensor) -> dict[str, tuple[float, ...]]:
    """Return mean and standard deviation of every channel on the 0..1 scale, to four digits."""
    counts = torch.zeros(images.shape[1], 256, dtype=torch.int64)
    for start in range(0, len(images), BLOCK):
        for channel, own in enumerate(images[start : start + BLOCK].unbind(1)):
            counts[channel] += own.flatten().bincount(minlength=256)
    shares, levels = counts.double() / counts.sum(1, keepdim=True), torch.arange(256).double() / 255
    mean = shares @ levels
    std = (shares * (levels - mean[:, None]) ** 2).sum(1).sqrt()
    return {
        "mean": tuple(round(own, 4) for own in mean.tolist()),
        # A channel that does not vary says nothing, but must not divide by zero.
        "std": tuple(round(own, 4) or 1.0 for own in std.tolist()),
    }


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")] if "," in text else text.split()


def _classes(text: str) -> dict[str, Any]:
    """Return number and names of the classes in the option `labels`."""
    names = () if text.strip().isdecimal() else tuple(_words(text))
    classes = len(names) or int(text.strip() or 0)
    if classes < 2 or len(set(names)) != len(names) or "" in names:
        wanted = "two or more different names, or a whole number from 2"
        raise InputError(f"data.labels: {text!r} is not allowed: {wanted}")
    return {"classes": classes, "names": names}


def _numbers(key: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, _words(text)))
    except ValueError:
        wanted = "a number for each channel, with commas or spaces between"
        raise InputError(f"data.{key}: {text!r} is not allowed: {wanted}") from None
