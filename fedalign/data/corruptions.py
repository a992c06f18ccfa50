"""Corrupted copies of images, after Hendrycks and Dietterich 2019 (arXiv 1903.12261).

The kinds are theirs, except `rotation`. Their code and parameters are for photographs; these are
for images of 8 to 64 pixels, so the numbers are no accuracies on CIFAR-10-C.
"""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from fedalign.rng import rng

Corrupt = Callable[[Tensor, float, np.random.Generator], Tensor]
"""Takes images `(N, C, H, W)` on the 0..1 scale, a strength and a stream; returns the images."""
SMOOTH = 0.1  # width of the bumps of `elastic_transform`, as a share of the longer side


def corrupted(images: Tensor, name: str, severity: int) -> Tensor:
    """Return corrupted copies `(N, C, H, W)` uint8 of images, the same ones in every run.

    Args:
        images: `(N, C, H, W)` uint8, on the CPU.
        name: of the corruption, one of `CORRUPTIONS`.
        severity: from 1 to 5.
    """
    corrupt, levels = CORRUPTIONS[name]
    stream = rng(0, "corruptions", name, severity)
    changed = corrupt(images.float() / 255, levels[severity - 1], stream)
    return (changed * 255).round().clamp(0, 255).to(torch.uint8)


def gaussian_noise(images: Tensor, std: float, stream: np.random.Generator) -> Tensor:
    """Add noise of this standard deviation."""
    noise = stream.standard_normal(tuple(images.shape), np.float32)
    return images + std * torch.from_numpy(noise)


def shot_noise(images: Tensor, photons: float, stream: np.random.Generator) -> Tensor:
    """Count photons, of which a white pixel sends so many."""
    counts = stream.poisson(images.numpy() * photons).astype(np.float32)
    return torch.from_numpy(counts / photons)


def impulse_noise(images: Tensor, share: float, stream: np.random.Generator) -> Tensor:
    """Set this share of the values to 0 or 1."""
    drawn = torch.from_numpy(stream.random(tuple(images.shape), np.float32))
    peppered = torch.where(drawn < share / 2, 0.0, images)
    return torch.where(drawn >= 1 - share / 2, 1.0, peppered)


def gaussian_blur(images: Tensor, sigma: float, _: np.random.Generator) -> Tensor:
    """Blur by a Gaussian of this standard deviation in pixels."""
    return _smoothed(images, sigma)


def elastic_transform(images: Tensor, pixels: float, stream: np.random.Generator) -> Tensor:
    """Move the pixels by a smooth random field, along each axis so far in the root mean square."""
    count, _, height, width = images.shape
    field = torch.from_numpy(stream.standard_normal((count, 2, height, width), np.float32))
    field = _smoothed(field, SMOOTH * max(height, width))
    field *= pixels / field.square().mean((2, 3), keepdim=True).sqrt()
    moves = field.movedim(1, 3) * 2 / torch.tensor([width, height])
    still = torch.eye(2, 3).expand(count, 2, 3)
    return _warped(images, _grid(still, images) + moves, "border")


def brightness(images: Tensor, added: float, _: np.random.Generator) -> Tensor:
    """Add so much to all values; theirs adds it to the value of HSV."""
    return images + added


def contrast(images: Tensor, kept: float, _: np.random.Generator) -> Tensor:
    """Keep this share of each channel's differences from its mean."""
    mean = images.mean((2, 3), keepdim=True)
    return mean + kept * (images - mean)


def pixelate(images: Tensor, kept: float, _: np.random.Generator) -> Tensor:
    """Shrink both sides to this share, and enlarge them again."""
    sides = images.shape[2:]
    small = functional.interpolate(images, [max(1, round(kept * n)) for n in sides], mode="area")
    return functional.interpolate(small, sides, mode="nearest-exact")


def jpeg_compression(images: Tensor, quality: float, _: np.random.Generator) -> Tensor:
    """Compress by JPEG of this quality; images of other than 3 channels channel by channel."""
    size, colour = images.shape, images.shape[1] == 3
    pixels = (images * 255).round().to(torch.uint8)
    arrays = pixels.movedim(1, 3) if colour else pixels.flatten(0, 1)
    done = torch.from_numpy(np.stack([_compressed(own, int(quality)) for own in arrays.numpy()]))
    return (done.movedim(3, 1) if colour else done.view(size)).float() / 255


def rotation(images: Tensor, degrees: float, stream: np.random.Generator) -> Tensor:
    """Turn each image by so many degrees to the left or to the right; corners become black."""
    signs = torch.from_numpy(stream.choice([-1.0, 1.0], len(images)))
    angles = signs.float() * np.pi * degrees / 180
    height, width = images.shape[2:]
    cos, sin, none = angles.cos(), angles.sin(), torch.zeros(len(images))
    rows = [cos, -sin * height / width, none], [sin * width / height, cos, none]
    turns = torch.stack([torch.stack(row, 1) for row in rows], 1)
    return _warped(images, _grid(turns, images), "zeros")


CORRUPTIONS: dict[str, tuple[Corrupt, tuple[float, ...]]] = {  # with the strength by severity
    "gaussian_noise": (gaussian_noise, (0.04, 0.08, 0.12, 0.18, 0.26)),
    "shot_noise": (shot_noise, (100, 50, 25, 12, 6)),
    "impulse_noise": (impulse_noise, (0.01, 0.03, 0.06, 0.1, 0.17)),
    "gaussian_blur": (gaussian_blur, (0.4, 0.6, 0.8, 1.0, 1.3)),
    "elastic_transform": (elastic_transform, (0.3, 0.5, 0.7, 0.9, 1.2)),
    "brightness": (brightness, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "contrast": (contrast, (0.75, 0.5, 0.4, 0.3, 0.15)),
    "pixelate": (pixelate, (0.8, 0.65, 0.5, 0.4, 0.3)),
    "jpeg_compression": (jpeg_compression, (80, 60, 40, 20, 10)),
    "rotation": (rotation, (8, 16, 24, 32, 45)),
}


def _smoothed(images: Tensor, sigma: float) -> Tensor:
    from scipy.ndimage import gaussian_filter  # takes a while to import

    return torch.from_numpy(gaussian_filter(images.numpy(), (0, 0, sigma, sigma), mode="nearest"))


def _grid(maps: Tensor, images: Tensor) -> Tensor:
    """Return the places that affine maps `(N, 2, 3)` show, `(N, H, W, 2)`, -1..1."""
    return functional.affine_grid(maps, list(images.shape), align_corners=False)


def _warped(images: Tensor, grid: Tensor, outside: str) -> Tensor:
    """Return what images show at these places, `(N, H, W, 2)`, bilinearly."""
    return functional.grid_sample(images, grid, "bilinear", outside, align_corners=False)


def _compressed(pixels: np.ndarray, quality: int) -> np.ndarray:
    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))
