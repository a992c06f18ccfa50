"""What a federation demands of images and labels, so that each refusal is worded alike."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from fedalign.data import Spec
from fedalign.errors import InputError, nearest


def shown(shape: Iterable[int]) -> str:
    """Return a shape as the option `data.image_shape` has it, such as 1x28x28."""
    return "x".join(map(str, shape))


def check_shape(place: Path, shape: tuple[int, ...], spec: Spec, whose: str) -> None:
    """Raise `InputError` for an image `(C, H, W)` that is not as `spec` has it."""
    if shape != spec.shape:
        found = f"an image of {shown(shape)} (channels x height x width)"
        raise InputError(f"{place}: {found}, and {whose} has {shown(spec.shape)}")


def numbers(at: Mapping[str, str], spec: Spec, whose: str) -> dict[str, int]:
    """Return the number of each label, in the order of `at`, which says where each stands."""
    number = {name: i for i, name in enumerate(spec.labels)}
    for label, place in at.items():
        if label not in number:
            told = f"{whose} has no class {label!r}{nearest(label, number)}"
            raise InputError(f"{place}: {told}")
    return {label: number[label] for label in at}
