"""A user's own images or tables in a folder, for a simulation or as the data of one node."""

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

from fedalign.data import MAX_CLASSES, Dataset, Part, Spec
from fedalign.data.archive import BLOCK
from fedalign.data.forms import FORMS, Form, find, has
from fedalign.data.places import MaxExamples
from fedalign.errors import InputError

MEASURED = "measured on the training part if not given"
Text = Field(coerce_numbers_to_str=True)  # YAML reads a single number as a number


@dataclass(frozen=True)
class FolderData:
    """Your own images or tables, in a folder: NumPy archives, CSV files, or a folder per class.

    Each part, train or test, is stored as `train.npz` with `images` and `labels`, as `train.csv`,
    or as image files `train/<class>/*.png`. The folders of classes may also lie in `data.dir`
    itself; they are the training part then. A CSV file of images has the columns `file` and
    `label`; one of a table has `label` and a column of numbers for each feature. In an archive,
    `images` are bytes (uint8), or the numbers `(N, F)` of a table. Images are grey or colour, have
    8 bits a channel, and are all of one size. The options `labels` and `image_shape` describe the
    federation's data where there is no training part.
    """

    dir: Annotated[str | None, Field(description="Folder that holds the data.")] = None
    labels: Annotated[
        str | None,
        Text,
        Field(
            description="Names of the classes, in order, separated by commas, or by spaces if no "
            "name contains one; or the number of classes, which are then 0, 1, …. If not given: "
            "the names in the folder, sorted."
        ),
    ] = None
    image_shape: Annotated[
        str | None,
        Text,
        Field(
            pattern=r"^[1-9]\d*(x[1-9]\d*x[1-9]\d*)?$",
            description="Channels x height x width, such as 1x28x28, or the number of features of "
            "a table; if not given, that of the first example.",
            json_schema_extra={"allowed": "such as 1x28x28, or 13"},
        ),
    ] = None
    mean: Annotated[
        str | None,
        Text,
        Field(description=f"Mean of each channel, 0..1, or of each feature; {MEASURED}."),
    ] = None
    std: Annotated[
        str | None,
        Text,
        Field(description=f"Standard deviation of each channel, or feature, likewise; {MEASURED}."),
    ] = None
    max_examples: MaxExamples = None

    def load(self, part: Part) -> Dataset:
        """Return the training or the test part.

        Raises:
            InputError: The part is missing, its files are damaged, or they contradict the options.
        """
        if part == "train":
            dataset = self._train
        else:
            dataset = read_folder(self._folder, part, self.spec()) if self.has(part) else None
        if dataset is None:
            forms = FORMS.format(part=part)
            also = " (or <class>/ alone)" if part == "train" else ""
            raise InputError(
                f"data.dir: {str(self._folder)!r} has no {part} part; searched for {forms}{also}"
            )
        return dataset

    def has(self, part: Part) -> bool:
        """Return whether the folder holds this part; False without a folder."""
        return self.dir is not None and has(self._folder, part)

    def spec(self) -> Spec:
        """Return the form of the examples, from the options where they are given.

        The training part supplies the rest. Without a training part `labels` and `image_shape` must
        be given; `mean` and `std` then default to 0.5, or to 0 and 1 for a table.
        """
        given = self._given
        if {"shape", "classes", "mean", "std"} <= given.keys():
            return _spec(given)
        if self.has("train"):
            return self.load("train").spec
        needed = {"data.labels": self.labels, "data.image_shape": self.image_shape}
        if missing := [key for key, option in needed.items() if option is None]:
            raise InputError(
                f"{' and '.join(missing)} must be given: data.dir={self.dir!r} has no training "
                "part that would define the classes and the shape"
            )
        return _spec(given)

    @property
    def _folder(self) -> Path:
        if self.dir is None:
            raise InputError("data.dir: must be given, the folder that holds the data")
        folder = Path(self.dir).expanduser()
        if not folder.is_dir():
            raise InputError(f"data.dir: {self.dir!r} is not a folder")
        return folder

    @property
    def _given(self) -> dict[str, Any]:
        """The attributes of a `Spec` that the options determine."""
        given: dict[str, Any] = {}
        if self.image_shape is not None:
            given["shape"] = tuple(map(int, self.image_shape.split("x")))
        if self.labels is not None:
            given |= _classes(self.labels)
        for key, text in (("mean", self.mean), ("std", self.std)):
            if text is not None:
                given[key] = _numbers(key, text)
        return given

    @cached_property
    def _train(self) -> Dataset | None:
        """The training part, read once, because the test part must fit it."""
        dataset = _training(self._folder, self._given)
        return None if dataset is None else dataset.subset(self.max_examples)


def read_folder(folder: Path, part: Part, spec: Spec | None) -> Dataset | None:
    """Return one part of the data in a folder; None if it does not hold this part.

    The forms are those of `FolderData`. Images in folders are sorted by class and name; archives
    and CSV files keep their order.

    Args:
        folder: holds the data.
        part: which part.
        spec: the federation's, which may have more classes; None: that of the training part.

    Raises:
        InputError: A file is damaged or does not fit `spec`, a part exists in two forms, or `spec`
            is None and there is no training part.
    """
    if spec is not None and spec.is_text:
        raise InputError(f"{folder}: a folder holds images or a table, and the federation has text")
    form = find(folder, part, spec.shape if spec else None)
    if form is None:
        return None
    if spec is not None:
        return _dataset(form, part, spec, *form.read(spec, "the federation"))
    train = _training(folder, {})
    if train is None:
        raise InputError(
            f"{folder}: has a test part but no training part, which defines the classes"
        )
    if part == "train":
        return train
    return _dataset(form, part, train.spec, *form.read(train.spec, "the training part"))


def _training(folder: Path, given: dict[str, Any]) -> Dataset | None:
    """Return the training part; its `Spec` has the `given` attributes, the files supply the rest.

    None if there is no training part.
    """
    form = find(folder, "train", given.get("shape"))
    if form is None:
        return None
    attributes = {"shape": form.shape} | given
    if "classes" not in given:
        attributes |= _named(folder, [form, find(folder, "test", attributes["shape"])])
    whose = "the federation" if given else "the training part"
    images, labels = form.read(_spec(attributes), whose)
    if not {"mean", "std"} <= given.keys():
        attributes = attributes | _measured(images) | given
    return _dataset(form, "train", _spec(attributes), images, labels)


def _dataset(form: Form, part: Part, spec: Spec, images: Tensor, labels: Tensor) -> Dataset:
    digest = hashlib.sha256(images.numpy().data)
    digest.update(labels.numpy().data)
    what = "table" if spec.is_table else "images"
    return Dataset(
        images=images,
        labels=labels,
        classes=spec.classes,
        mean=spec.mean,
        std=spec.std,
        source=f"own {what}, {part} part, from {form.place}, SHA-256 {digest.hexdigest()}",
        class_names=spec.names,
    )


def _spec(attributes: dict[str, Any]) -> Spec:
    """Return the `Spec` with these attributes; `mean` and `std` have defaults."""
    values = (0.5, 0.5) if len(attributes["shape"]) == 3 else (0.0, 1.0)
    mean, std = ((value,) * attributes["shape"][0] for value in values)
    try:
        return Spec(**({"mean": mean, "std": std} | attributes))
    except ValueError as error:
        raise InputError(f"data.{error}") from None


def _named(folder: Path, forms: Iterable[Form | None]) -> dict[str, Any]:
    """Return number and names of the classes in all parts together."""
    parts = [form.labels() for form in forms if form]
    names = sorted(set().union(*(labels for labels in parts if isinstance(labels, set))))
    if all(name.isdecimal() for name in names):
        names.sort(key=lambda name: (int(name), name))
    numbered = names == list(map(str, range(len(names))))
    most = max([labels for labels in parts if isinstance(labels, int)], default=0)
    classes = max(len(names), most) if numbered else len(names)
    if classes < 2:
        only = names[0] if names else "0"
        raise InputError(f"{folder}: has one class, {only!r}; at least two are needed")
    return {"classes": classes, "names": () if numbered else tuple(names)}


def _measured(images: Tensor) -> dict[str, tuple[float, ...]]:
    """Return mean and standard deviation of every channel on the 0..1 scale, to four digits.

    Those of every feature of a table in its own unit, to six significant digits.
    """
    if images.ndim == 2:
        std, mean = torch.std_mean(images.double(), 0, correction=0)
        return {"mean": _rounded(mean), "std": tuple(value or 1.0 for value in _rounded(std))}
    counts = torch.zeros(images.shape[1], 256, dtype=torch.int64)
    for start in range(0, len(images), BLOCK):
        for channel, pixels in enumerate(images[start : start + BLOCK].unbind(1)):
            counts[channel] += pixels.flatten().bincount(minlength=256)
    shares, levels = counts.double() / counts.sum(1, keepdim=True), torch.arange(256).double() / 255
    mean = shares @ levels
    std = (shares * (levels - mean[:, None]) ** 2).sum(1).sqrt()
    return {
        "mean": tuple(round(value, 4) for value in mean.tolist()),
        # A constant channel carries no information, but must not divide by zero.
        "std": tuple(round(value, 4) or 1.0 for value in std.tolist()),
    }


def _rounded(values: Tensor) -> tuple[float, ...]:
    return tuple(float(f"{value:.6g}") for value in values.tolist())


def _words(text: str) -> list[str]:
    return [word.strip() for word in text.split(",")] if "," in text else text.split()


def _classes(text: str) -> dict[str, Any]:
    """Return number and names of the classes in the option `labels`."""
    names = () if text.strip().isdecimal() else tuple(_words(text))
    classes = len(names) or int(text.strip() or 0)
    if not 2 <= classes <= MAX_CLASSES or len(set(names)) != len(names) or "" in names:
        allowed = f"two or more different names, or a whole number from 2 to {MAX_CLASSES}"
        raise InputError(f"data.labels: {text!r} is not allowed: give {allowed}")
    return {"classes": classes, "names": names}


def _numbers(key: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(map(float, _words(text)))
    except ValueError:
        allowed = "a number for each channel, separated by commas or spaces"
        raise InputError(f"data.{key}: {text!r} is not allowed: give {allowed}") from None
