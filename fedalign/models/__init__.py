"""Networks: each model is a function from an example's shape and the number of classes to a module.

Modules map normalised images `(N, C, H, W)`, the numbers of characters or tokens `(N, L)` int64, or
normalised rows of a table `(N, F)`, to logits `(N, classes)`. Initial weights come from torch's
global generator, which the caller seeds.
"""

from collections.abc import Collection

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


def require_tokens(model: str, shape: tuple[int, ...], vocabulary: int | None) -> int:
    """Return the size of the vocabulary; raise `InputError` unless examples are text of tokens."""
    if vocabulary is not None:
        return vocabulary
    size = "x".join(map(str, shape))
    reason = f"takes text of tokens, such as 'text-tasks', but this data has none ({size} values)"
    raise InputError(f"model.name: {model!r} {reason}")


def refuse_tokens(model: str, spec: Spec, arguments: Collection[str]) -> None:
    """Raise `InputError` if examples are tokens, and a model with these arguments takes none."""
    if spec.vocabulary is not None and "vocabulary" not in arguments:
        raise InputError(
            f"model.name: {model!r} takes no tokens, and this data is {spec.kind}; 'transformer' "
            "takes them, and so does a model of yours with an argument `vocabulary`"
        )


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
    if spec.vocabulary is not None:
        return f" on {spec.kind}, which 'transformer' takes"
    if spec.is_text:
        return f" on {spec.kind}, which 'char-lstm' and 'char-transformer' take"
    return f" on {spec.kind}, which 'mlp' takes" if spec.is_table else ""
