"""Convolutions of K models in one kernel of Triton, forward and both backward passes.

cuDNN convolves with K sets of kernels one set after the other, and rearranges images on the way in
and out. Here every set is a matrix product whose operand is read from the images where the product
needs it (an implicit GEMM), and the models are an axis of the grid. No sum depends on timing: the
same bits every time.

In memory channels come last: images are `(K * B, H, W, G * C)`, kernels `(K, G * O, h, w, C)` and
outputs `(K * B, H', W', G * O)`. Every group of every model is a problem of its own, from C
channels to O. Images are laid out first, with padding: so an element's address is the sum of its
pixel's offset and of its term's in a table, and reading it needs no mask. Laying out also rounds
float32 to TF32, of which the hardware would cut the last bits off, always towards zero. On a CPU,
Triton's interpreter runs the same code (`TRITON_INTERPRET=1`).
"""

from __future__ import annotations

from functools import cache
from math import gcd

import torch
import triton
from torch import Tensor
from torch.nn import functional

from fedalign.network.convolution import Convolution
from fedalign.network.device import convolves_in_tf32
from fedalign.network.triton_kernels import correlate_kernel, gradient_kernel, lay_kernel

BLOCK = 1024
"""Numbers that a program lays out."""


def correlate(image: Tensor, weight: Tensor, bias: Tensor | None, how: Convolution) -> Tensor:
    """Return `(K * B, H', W', G * O)` of images, kernels and biases `(K, G * O)`."""
    sides = zip(image.shape[1:3], weight.shape[2:4], how.stride, how.dilation, strict=True)
    size = [(n - d * (k - 1) - 1) // s + 1 for n, k, s, d in sides]
    out = image.new_empty(len(image), *size, weight.shape[1])
    channels = weight.shape[1] // how.groups
    blocks = correlate_blocks(channels, weight[0, 0].numel())
    rows = len(image) // len(weight) * size[0] * size[1]
    problems = len(weight) * how.groups
    grid = triton.cdiv(rows, blocks["BM"]), triton.cdiv(channels, blocks["BN"]), problems
    tables, sizes, vectors = _arguments(image, weight, out, how, examples=1)
    correlate_kernel[grid](
        image, weight, bias, out, *tables, *sizes, weight.stride(0) // vectors[0],
        0 if bias is None else bias.stride(0), bias is not None, _precision(), *vectors, **blocks,
    )  # fmt: skip
    return out


def images_of(x: Tensor, how: Convolution) -> Tensor:
    """Return images `(K * B, G * C, H, W)` with a convolution's padding, as kernels want them."""
    (top, left), (high, wide) = how.padding, x.shape[2:]
    return _laid(x.movedim(1, -1), (top, left), (high + 2 * top, wide + 2 * left))


def kernels_of(weight: Tensor) -> Tensor:
    """Return kernels `(K, G * O, C, h, w)` with channels last, rounded as images are."""
    return _rounded(weight.movedim(2, -1).contiguous())


def slopes_of(dy: Tensor) -> Tensor:
    """Return the gradient of outputs `(K * B, G * O, H', W')` as kernels want it."""
    return _laid(dy.movedim(1, -1), (0, 0), (dy.shape[2], dy.shape[3]))


def images_gradient(dy: Tensor, weight: Tensor, how: Convolution, size: torch.Size) -> Tensor:
    """Return the gradient of images `(K * B, G * C, H, W)`, of this size before they were padded.

    It is the correlation of the outputs' gradient, with zeros between and around its pixels, with
    the kernels turned around.
    """
    lines, columns = (d * (k - 1) for k, d in zip(weight.shape[2:4], how.dilation, strict=True))
    first = lines - how.padding[0], columns - how.padding[1]
    around = _laid(dy, first, (size[2] + lines, size[3] + columns), how.stride)
    turned = weight.view(len(weight), how.groups, -1, *weight.shape[2:]).flip(3, 4)
    turned = turned.transpose(2, 5).flatten(1, 2).contiguous()  # (K, G * C, h, w, O)
    return correlate(around, turned, None, Convolution((1, 1), *how[1:])).movedim(-1, 1)


def kernels_gradient(dy: Tensor, image: Tensor, weight: Tensor, how: Convolution) -> Tensor:
    """Return the gradient `(K, G * O, h, w, C)` float32 of kernels; images are padded."""
    channels, depth = weight.shape[1] // how.groups, weight[0, 0].numel()
    blocks = gradient_blocks(channels, depth, 8 * dy.element_size())
    tiles = triton.cdiv(channels, blocks["BM"]) * triton.cdiv(depth, blocks["BN"])
    pixels, problems = dy[..., 0].numel() // len(weight), len(weight) * how.groups
    steps = triton.cdiv(pixels, blocks["BK"])
    parts = max(1, min(4 * _processors(dy.device) // (tiles * problems), steps // 8))
    share = triton.cdiv(steps, parts) * blocks["BK"]
    parts = triton.cdiv(pixels, share)
    out = dy.new_empty(parts, *weight.shape, dtype=torch.float32)
    tables, sizes, vectors = _arguments(image, weight, dy, how, len(dy) // len(weight))
    gradient_kernel[tiles, parts, problems](
        image, dy, out, *tables, *sizes, share, _precision(), *vectors, **blocks
    )
    return out[0] if parts == 1 else out.sum(0)


def _laid(
    x: Tensor, first: tuple[int, int], sides: tuple[int, int], steps: tuple[int, ...] = (1, 1)
) -> Tensor:
    """Return images `(N, H, W, C)` with other sides: pixel 0 at `first`, `steps` between them."""
    rounds = _rounds(x)
    if sides == tuple(x.shape[1:3]) and not rounds and x.is_contiguous():
        return x
    out = x.new_empty(len(x), *sides, x.shape[3])
    size = out[0].numel()
    lay_kernel[len(x), triton.cdiv(size, BLOCK)](
        x, out, x.shape[3], *sides, *first, *x.shape[1:3], *x.stride(), *steps, rounds, BLOCK
    )
    return out


def _rounded(x: Tensor) -> Tensor:
    """Return numbers rounded to TF32 where the kernels would cut their last bits off."""
    if not _rounds(x):
        return x
    rounded = ((x.view(torch.int32) + 0x1000) & -0x2000).view(torch.float32)
    return torch.where(x == x, rounded, x)  # not NaN


def _rounds(x: Tensor) -> bool:
    return x.dtype == torch.float32 and _precision() == "tf32"


def _arguments(
    image: Tensor, weight: Tensor, out: Tensor, how: Convolution, examples: int
) -> tuple[tuple[Tensor, Tensor], tuple[int, ...], tuple[int, int]]:
    """Return `windows`, of so many examples, and `terms`; `examples` to `taps`; IN and OUT."""
    most, target = 16 // image.element_size(), weight.shape[1] // how.groups
    source, taps = weight.shape[-1], weight[0, 0, ..., 0].numel()
    vectors = gcd(most, source, weight.stride(0)), gcd(most, target)  # of at most 16 bytes
    plane, pixels = image[0, ..., 0].numel(), out[0, ..., 0].numel()
    sizes = len(image) // len(weight), plane, source // vectors[0], target // vectors[1]
    sides, device = tuple(image.shape[1:]), image.device
    windows = _windows(sides, tuple(out.shape[1:3]), how.stride, examples, device)
    terms = _terms(sides, tuple(weight.shape[2:]), how.dilation, device)
    return (windows, terms), (*sizes, pixels, how.groups, taps), vectors


@cache
def _windows(
    sides: tuple[int, ...], out: tuple[int, ...], stride: tuple[int, ...], examples: int,
    device: torch.device,
) -> Tensor:  # fmt: skip
    """Return where the window of each pixel of some outputs begins in their images."""
    (high, wide, channels), places = sides, map(torch.arange, (examples, *out))
    example, row, column = torch.meshgrid(*places, indexing="ij")
    first = (example * high + row * stride[0]) * wide + column * stride[1]
    return (first.flatten() * channels).to(torch.int32).to(device)


@cache
def _terms(
    sides: tuple[int, ...], shape: tuple[int, ...], dilation: tuple[int, ...], device: torch.device
) -> Tensor:
    """Return where each term is in a window, and zeros up to a multiple of 128."""
    row, column, channel = torch.meshgrid(*map(torch.arange, shape), indexing="ij")
    place = (row * dilation[0] * sides[1] + column * dilation[1]) * sides[2] + channel
    terms = place.flatten()
    return functional.pad(terms, (0, -len(terms) % 128)).to(torch.int32).to(device)


def correlate_blocks(target: int, depth: int) -> dict[str, int]:
    """Return the tile of a product with `target` columns whose sums have `depth` terms.

    Found by trying seven tiles on the layers of `benchmarks/convolutions.py` and an H100; the best
    of each layer is at most a sixth faster.
    """
    columns, wide = _between(target, 16, 64), target > 64 and depth > 512
    terms = {"BK": 32 if depth > 16 else 16, "num_stages": 3}
    return terms | {"BM": 128, "BN": 128 if wide else columns, "num_warps": 8 if wide else 4}


def gradient_blocks(target: int, depth: int, bits: int) -> dict[str, int]:
    """Return the tile of a kernels' gradient with `target` rows of `depth` entries.

    Of float32 (`bits`), 64 rows would need a transpose that costs more than it saves.
    """
    rows = _between(target, 16, 32 if bits > 16 else 64)
    columns = _between(depth, 16, 128 if target > 128 else 64)
    terms = 64 if rows <= 32 and columns <= 64 else 32
    return {"BM": rows, "BN": columns, "BK": terms, "num_warps": 4, "num_stages": 3}


def _between(size: int, least: int, most: int) -> int:
    """Return the power of two that holds `size`, within bounds."""
    return int(min(most, max(least, triton.next_power_of_2(size))))


def _precision() -> str:
    """Return how float32 is multiplied, as in PyTorch's own convolutions."""
    return "tf32" if convolves_in_tf32() else "ieee"


@cache
def _processors(device: torch.device) -> int:
    """Return how many programs a device runs at once; two for the interpreter."""
    if device.type != "cuda":
        return 2
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
