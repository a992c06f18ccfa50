"""Networks: each is a function of an example's shape and the number of classes, giving logits.

They take normalised images `(N, C, H, W)`, or the codes of characters `(N, L)`, int64, and return
`(N, classes)`. Their first weights come from torch's own generator, which the caller seeds.
"""

from fedalign.errors import InputError


def require_images(model: str, shape: tuple[int, ...]) -> None:
    """Raise `InputError` unless an example is an image `(C, H, W)`."""
    if len(shape) != 3:
        raise InputError(
            f"model.name: {model!r} takes images, and this data is text; "
            "for text there are 'char-lstm' and 'char-transformer'"
        )


def require_text(model: str, shape: tuple[int, ...]) -> None:
    """Raise `InputError` unless an example is text `(L,)`."""
    if len(shape) != 1:
        told = "x".join(map(str, shape))
        raise InputError(f"model.name: {model!r} takes text, and this data is images ({told})")


def require_size(model: str, shape: tuple[int, int, int], least: int) -> None:
    """Raise `InputError` if the example is no image `(C, H, W)`, or one smaller than `least`."""
    require_images(model, shape)
    _, height, width = shape
    if min(height, width) < least:
        raise InputError(
            f"model.name: {model!r} needs images of at least {least}x{least}, "
            f"and this data has {height}x{width}"
        )
