"""Networks: each model is a function from an example's shape and the number of classes to a module.

Modules map normalised images `(N, C, H, W)`, or the codes of characters `(N, L)` int64, to logits
`(N, classes)`. Initial weights come from torch's global generator, which the caller seeds.
"""

from fedalign.errors import InputError


def require_images(model: str, shape: tuple[int, ...]) -> None:
    """Raise `InputError` unless an example is an image `(C, H, W)`."""
    if len(shape) != 3:
        raise InputError(
            f"model.name: {model!r} takes images, but this data is text; "
            "use 'char-lstm' or 'char-transformer'"
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
