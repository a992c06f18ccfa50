"""Networks: each model is a function from an example's shape and the number of classes to a module.

Modules map normalised images `(N, C, H, W)`, the codes of characters `(N, L)` int64, or normalised
rows of a table `(N, F)`, to logits `(N, classes)`. Initial weights come from torch's global
generator, which the caller seeds.
"""

from fedalign.data import Spec
from fedalign.errors import InputError


def require_images(model: str, shape: tuple[int, ...]) -> None:
    """Raise `InputError` unless an example is an image `(C, H, W)`."""
    if len(shape) != 3:
        raise InputError(
            f"model.name: {model!r} takes images, and an example of this data has the shape "
            f"({shape[0]},); 'mlp' takes tables, 'char-lstm' and 'char-transformer' take text"
        )


def require_text(model: str, shape: tuple[int, ...]) -> None:
    """Raise `InputError` unless an example is text `(L,)`."""
    if len(shape) != 1:
        size = "x".join(map(str, shape))
        raise InputError(f"model.name: {model!r} takes text, but this data is images ({size})")


def require_size(model: str, shape: tuple[int, int, int], least: int) -> None:
    """Raise `InputError` unless an example is an image `(C, H, W)`, H and W at least `least`."""
    require_images(model, shape)
    _, height, width = shape
    if min(height, width) < least:
        raise InputError(
            f"model.name: {model!r} needs images of at least {least}x{least}, "
            f"but this data has {height}x{width}"
        )


def takers(spec: Spec) -> str:
    """Return the middle of an error: of examples that few models take, which models do."""
    if spec.is_text:
        return f" on {spec.kind}, which 'char-lstm' and 'char-transformer' take"
    return f" on {spec.kind}, which 'mlp' takes" if spec.is_table else ""
