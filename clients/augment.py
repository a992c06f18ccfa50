"""Random changes of the images of a step, on the device.

What happens to an image depends on the client, the step and the image's place in the client's batch
alone: it is the same on every device, stacked or alone. Only whole numbers, and products of two
float32 numbers, decide on pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fedalign.data import Dataset
from fedalign.network.random_layers import uniform

Augmentation = Literal["flip", "crop", "cutout", "rotate", "color"]
NAMES: tuple[str, ...] = get_args(Augmentation)
MOST_DRAWS = 2  # that one of them makes for an image
DEGREES = 15  # by which an image is rotated at most
STRENGTH = 0.4  # by which its brightness and its contrast change at most

Draw = Callable[[int], Tensor]
"""Returns the first or second random number from 0 to 1 of each image, `(k, B)`."""


class Augment:
    """Changes images at random, in ways that are applied in a given order.

    Args:
        names: the ways.
        data: the images' data set.
        own: tensors that steps read; what the ways need is added there.
    """

    def __init__(self, names: Sequence[str], data: Dataset, own: dict[str, Tensor]):
        self._names, self._own = names, own
        if "cutout" in names:
            mean = torch.tensor(data.mean).mul(255).round().to(torch.uint8)
            own["augment mean"] = mean.view(-1, 1, 1).to(data.images.device)
        if "rotate" in names:
            own["augment turns"] = torch.from_numpy(_turns(*data.shape[1:])).to(data.images.device)

    def __call__(self, images: Tensor, keys: Tensor) -> Tensor:
        """Return changed images `(k, B, C, H, W)` uint8; `keys` are a step's, `(k, 2)`."""
        for name in self._names:
            first = 1 + MOST_DRAWS * NAMES.index(name)
            draw = partial(_draw, keys, first, images.shape[1])
            images = WAYS[name](images, draw, self._own)
        return images


def flip(images: Tensor, draw: Draw, _: dict[str, Tensor]) -> Tensor:
    """Mirror every second image, left to right."""
    return torch.where(_of_pixels(draw(0) < 0.5), images.flip(-1), images)


def crop(images: Tensor, draw: Draw, _: dict[str, Tensor]) -> Tensor:
    """Pad each side by an eighth of its length with black, and cut out the old size anywhere."""
    (height, width), place = images.shape[-2:], images.device
    down, right = max(1, height // 8), max(1, width // 8)
    rows = _whole(draw(0), 2 * down + 1)[..., None] + torch.arange(height, device=place)
    columns = _whole(draw(1), 2 * right + 1)[..., None] + torch.arange(width, device=place)
    padded = functional.pad(images, (right, right, down, down))
    lines = rows[:, :, None, :, None].expand(*padded.shape[:3], -1, padded.shape[-1])
    return padded.gather(3, lines).gather(4, columns[:, :, None, None].expand(images.shape))


def cutout(images: Tensor, draw: Draw, own: dict[str, Tensor]) -> Tensor:
    """Put the mean colour into a square of half the shorter side (DeVries and Taylor 2017).

    Its centre is any pixel, so that a part of it may lie outside of the image.
    """
    side = max(1, min(images.shape[-2:]) // 2)
    rows, columns = (
        _near(_whole(draw(axis), length), length, side)
        for axis, length in enumerate(images.shape[-2:])
    )
    hole = rows[..., :, None] & columns[..., None, :]
    return torch.where(hole[:, :, None], own["augment mean"], images)


def rotate(images: Tensor, draw: Draw, own: dict[str, Tensor]) -> Tensor:
    """Turn by a whole number of degrees, up to 15 either way; nearest pixels, black outside."""
    sources = own["augment turns"][_whole(draw(0), 2 * DEGREES + 1)][:, :, None]
    flat = functional.pad(images.flatten(3), (0, 1))
    return flat.gather(3, sources.expand(*images.shape[:3], -1)).view(images.shape)


def color(images: Tensor, draw: Draw, _: dict[str, Tensor]) -> Tensor:
    """Multiply the brightness, then the distance of each value from the image's mean, by 0.6..1.4.

    As torchvision's `adjust_brightness` and `adjust_contrast`, which however weigh colours.
    """
    light, contrast = (_of_pixels(1 - STRENGTH + 2 * STRENGTH * draw(axis)) for axis in (0, 1))
    bright = (images * light).clamp_(0, 255).floor_()
    total = bright.sum((2, 3, 4), keepdim=True, dtype=torch.int64)  # whole numbers, so exact
    mean = total / bright[0, 0].numel()
    return (bright * contrast + mean * (1 - contrast)).clamp_(0, 255).to(torch.uint8)


WAYS: dict[str, Callable[[Tensor, Draw, dict[str, Tensor]], Tensor]] = {
    "flip": flip,
    "crop": crop,
    "cutout": cutout,
    "rotate": rotate,
    "color": color,
}


def _draw(keys: Tensor, first: int, count: int, number: int) -> Tensor:
    return uniform(keys, first + number, count)


def _whole(numbers: Tensor, count: int) -> Tensor:
    """Return whole numbers from 0 to `count` - 1, all equally likely."""
    return (numbers * count).long()


def _of_pixels(numbers: Tensor) -> Tensor:
    """Return numbers `(k, B)` of images as numbers of their pixels."""
    return numbers[:, :, None, None, None]


def _near(centres: Tensor, length: int, side: int) -> Tensor:
    """Return which places along an axis lie in a square around a centre, `(k, B, length)`."""
    from_start = torch.arange(length, device=centres.device) - centres[..., None] + side // 2
    return (from_start >= 0) & (from_start < side)


def _turns(height: int, width: int) -> np.ndarray:
    """Return where each pixel of a turned image comes from, `(31, H * W)`; H * W is outside."""
    angles = np.deg2rad(np.arange(-DEGREES, DEGREES + 1))[:, None, None]
    y, x = np.mgrid[:height, :width] - np.array([height - 1, width - 1]).reshape(2, 1, 1) / 2
    rows = np.rint(np.cos(angles) * y + np.sin(angles) * x + (height - 1) / 2).astype(np.int64)
    columns = np.rint(np.cos(angles) * x - np.sin(angles) * y + (width - 1) / 2).astype(np.int64)
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    sources = np.where(inside, rows * width + columns, height * width)
    return sources.reshape(len(angles), -1)
