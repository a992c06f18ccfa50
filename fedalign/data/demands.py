"""Checks of images and labels against a federation, in one place for equal messages."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from fedalign.data import Spec
from fedalign.errors import InputError, nearest


def shown(shape: Iterable[int]) -> str:
    """Return a shape in the notation of the option `data.image_shape`, such as 1x28x28."""
    return "x".join(map(str, shape))


def check_shape(place: Path, shape: tuple[int, ...], spec: Spec, whose: str) -> None:
    """Raise `InputError` if the shape of an image `(C, H, W)` differs from the one in `spec`."""
    if shape != spec.shape:
        found = f"an image of {shown(shape)} (channels x height x width)"
        raise InputError(f"{place}: {found}, and {whose} has {shown(spec.shape)}")


def numbers(at: Mapping[str, str], spec: Spec, whose: str) -> dict[str, int]:
    """Return the number of each label of `at`, which maps labels to their places in files."""
    number = {name: i for i, name in enumerate(spec.labels)}
    for label, place in at.items():
        if label not in number:
            raise InputError(f"{place}: {whose} has no class {label!r}{nearest(label, number)}")
    return {label: number[label] for label in at}
