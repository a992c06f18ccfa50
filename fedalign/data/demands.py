"""Checks of images and labels against a federation, in one place for equal messages."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from fedalign.data import Spec
from fedalign.errors import InputError, nearest


def shown(shape: Iterable[int]) -> str:
    """Return a shape in the notation of the option `data.image_shape`: 1x28x28, or 13."""
    return "x".join(map(str, shape))


def check_shape(place: Path, shape: tuple[int, ...], spec: Spec, whose: str) -> None:
    """Raise `InputError` if the shape of an example differs from the one in `spec`."""
    if shape != spec.shape:
        image = f"an image of {shown(shape)} (channels x height x width)"
        found = f"rows of {shown(shape)} features" if len(shape) == 1 else image
        wanted = shown(spec.shape) if len(shape) == len(spec.shape) else spec.kind
        raise InputError(f"{place}: {found}, and {whose} has {wanted}")


def numbers(at: Mapping[str, str], spec: Spec, whose: str) -> dict[str, int]:
    """Return the number of each label of `at`, which maps labels to their places in files."""
    number = {name: i for i, name in enumerate(spec.labels)}
    for label, place in at.items():
        if label not in number:
            raise InputError(f"{place}: {whose} has no class {label!r}{nearest(label, number)}")
    return {label: number[label] for label in at}
