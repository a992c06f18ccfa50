"""Networks: each is a function of the image's shape and the number of classes, giving logits.

They take normalised images `(N, C, H, W)` and return `(N, classes)`. Their first weights come from
torch's own generator, which the caller seeds.
"""

from fedalign.errors import InputError


def require_size(model: str, shape: tuple[int, int, int], least: int) -> None:
    """Raise `InputError` if the image `(C, H, W)` is lower or narrower than `least`."""
    _, height, width = shape
    if min(height, width) < least:
        raise InputError(
            f"model.name: {model!r} needs images of at least {least}x{least}, "
            f"and this data has {height}x{width}"
        )
