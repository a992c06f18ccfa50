"""Triton's kernels of convolutions; `triton_conv` says what they work on."""

# mypy: disable-error-code="untyped-decorator, no-untyped-def"
# ruff: noqa: N803  (compile-time constants are in capitals)

from __future__ import annotations

import triton
import triton.language as tl

SIZES = ("examples", "plane", "source", "target", "pixels", "groups", "taps", "model", "bias_model",
         "share", "channels", "high", "wide", "top", "left", "lines", "columns", "example", "line",
         "column", "channel")  # fmt: skip
"""Arguments of which no value makes Triton compile anew, which a graph could not capture."""


@triton.jit(do_not_specialize=SIZES)
def lay_kernel(
    x, out, channels, high, wide, top, left, lines, columns, example, line, column, channel,
    DOWN: tl.constexpr, RIGHT: tl.constexpr, ROUND: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Write an image of `high` by `wide` pixels: `lines` by `columns` of `x`, and zeros.

    The first pixel comes after `top` lines and `left` columns, the others every DOWN lines and
    RIGHT columns; `example`, `line`, `column` and `channel` are the strides of `x`.
    """
    image = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    size = high * wide * channels
    row, side = place // (wide * channels) - top, place // channels % wide - left
    seen = (place < size) & (row >= 0) & (side >= 0)
    if DOWN > 1:
        seen &= row % DOWN == 0
        row = row // DOWN
    if RIGHT > 1:
        seen &= side % RIGHT == 0
        side = side // RIGHT
    seen &= (row < lines) & (side < columns)
    where = row * line + side * column + place % channels * channel
    value = tl.load(x + image * example + where, mask=seen, other=0.0)
    if ROUND:
        bits = (value.to(tl.int32, bitcast=True) + 0x1000) & -0x2000
        value = tl.where(value == value, bits.to(tl.float32, bitcast=True), value)
    tl.store(out + image * size + place, value, mask=place < size)


@triton.jit(do_not_specialize=SIZES)
def correlate_kernel(
    image, weights, biases, out, windows, terms,
    examples, plane, source, target, pixels, groups, taps, model, bias_model,
    BIAS: tl.constexpr, PRECISION: tl.constexpr, IN: tl.constexpr, OUT: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Write BM pixels of BN channels of a correlation.

    `windows` says where the window of each of the `pixels` of an output begins in its image, of
    `plane` pixels; `terms`, where each of the `taps * source` terms of a sum is in a window.
    `source` and `target` are C and O, as multiples of IN and OUT; `model` and `bias_model` are
    strides of weights, as a multiple of IN, and of biases.
    """
    source, target = source * IN, target * OUT
    own, part = tl.program_id(2) // groups, tl.program_id(2) % groups
    depth = taps * source
    n = tl.program_id(0) * BM + tl.arange(0, BM)
    inside = n < examples * pixels
    n = tl.minimum(n, examples * pixels - 1)
    first = (n // pixels) * plane * (groups * source)
    first += tl.multiple_of(tl.load(windows + n % pixels), IN)
    channel = tl.program_id(1) * BN + tl.arange(0, BN)
    real = channel < target
    image += own.to(tl.int64) * examples * plane * (groups * source) + part * source
    weights += own.to(tl.int64) * (model * IN) + part * target * depth
    total = tl.full((BM, BN), 0.0, tl.float32)
    for start in range(0, depth, BK):
        k = start + tl.arange(0, BK)
        term = tl.max_contiguous(tl.multiple_of(tl.load(terms + k), IN), IN)
        values = tl.load(image + (first[:, None] + term[None, :]))
        held = real[:, None] & (k < depth)[None, :]
        kernels = tl.load(weights + ((channel * depth)[:, None] + k[None, :]), held, other=0.0)
        total = tl.dot(values, tl.trans(kernels), total, input_precision=PRECISION)
    if BIAS:
        biases += own.to(tl.int64) * bias_model + part * target
        total += tl.load(biases + channel, mask=real, other=0.0).to(tl.float32)[None, :]
    out += own.to(tl.int64) * examples * pixels * (groups * target) + part * target
    place = (n * (groups * target))[:, None] + channel[None, :]
    tl.store(out + place, total.to(out.dtype.element_ty), mask=inside[:, None] & real[None, :])


@triton.jit(do_not_specialize=SIZES)
def gradient_kernel(
    image, slope, out, windows, terms,
    examples, plane, source, target, pixels, groups, taps, share,
    PRECISION: tl.constexpr, IN: tl.constexpr, OUT: tl.constexpr,
    BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
):  # fmt: skip
    """Write what `share` pixels add to BM channels by BN terms of the weights' gradient.

    `windows` has all `examples * pixels` of a model; the other arguments are as above.
    """
    source, target = source * IN, target * OUT
    split, problem = tl.program_id(1), tl.program_id(2)
    own, part = problem // groups, problem % groups
    depth, across = taps * source, (target + BM - 1) // BM
    channel = (tl.program_id(0) % across) * BM + tl.arange(0, BM)
    j = (tl.program_id(0) // across) * BN + tl.arange(0, BN)
    term = tl.max_contiguous(tl.multiple_of(tl.load(terms + j), IN), IN)
    image += own.to(tl.int64) * examples * plane * (groups * source) + part * source
    slope += own.to(tl.int64) * examples * pixels * (groups * target) + part * target
    last = examples * pixels
    total = tl.full((BM, BN), 0.0, tl.float32)
    for start in range(split * share, tl.minimum((split + 1) * share, last), BK):
        n = start + tl.arange(0, BK)
        held = (n < last)[:, None] & (channel < target)[None, :]
        n = tl.minimum(n, last - 1)
        first = tl.multiple_of(tl.load(windows + n), IN)
        values = tl.load(image + (first[:, None] + term[None, :]))
        there = (n * (groups * target))[:, None] + channel[None, :]
        slopes = tl.load(slope + there, mask=held, other=0.0)
        total = tl.dot(tl.trans(slopes), values, total, input_precision=PRECISION)
    out += (split.to(tl.int64) * tl.num_programs(2) + problem) * target * depth
    place = (channel * depth)[:, None] + j[None, :]
    tl.store(out + place, total, mask=(channel < target)[:, None] & (j < depth)[None, :])
