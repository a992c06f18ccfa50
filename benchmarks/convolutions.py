"""Measure ways to convolve with K sets of kernels, forward and backward, for the layers we train.

    python benchmarks/convolutions.py
    python benchmarks/convolutions.py --seconds 40 --precision bf16

K models see B examples each: `(K * B, C, H, W)` in, `(K * B, O, H', W')` out, kernels
`(K, O, C, h, w)`. What a way must rearrange on the way in and out counts. Backward means the
gradients of inputs and kernels. Share: of what the card's largest matrix product reaches.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional

from fedalign.network.convolution import Convolution, triton_conv
from fedalign.network.kernels import Target

Conv = Callable[[Tensor, Tensor, int], Tensor]


@dataclass(frozen=True)
class Layer:
    """A layer of K models: B examples of C channels and a side each, O kernels of a side."""

    name: str
    k: int
    b: int
    c: int
    side: int
    o: int
    kernel: int
    padding: int = 0

    @property
    def flops(self) -> float:
        """Floating-point operations of the forward pass; each backward pass has as many."""
        out = self.side + 2 * self.padding - self.kernel + 1
        return 2.0 * self.k * self.b * self.o * self.c * self.kernel**2 * out**2

    def tensors(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return inputs and kernels."""
        draw = torch.Generator().manual_seed(0)
        x = torch.randn(self.k * self.b, self.c, self.side, self.side, generator=draw)
        shape = (self.k, self.o, self.c, self.kernel, self.kernel)
        w = torch.randn(shape, generator=draw) / (self.c * self.kernel**2) ** 0.5
        x, w = x.to(device, memory_format=torch.channels_last), w.to(device)
        w = w.movedim(2, -1).contiguous().movedim(-1, 2)  # channels last, as in a run
        return x.requires_grad_(), w.requires_grad_()


LAYERS = (
    Layer("W1 conv1", 10, 50, 3, 32, 32, 5),
    Layer("W1 conv2", 10, 50, 32, 14, 64, 5),
    Layer("CIFAR conv1", 50, 10, 3, 32, 32, 3),
    Layer("CIFAR conv2", 50, 10, 32, 30, 64, 3),
    Layer("W3 conv1", 1000, 10, 1, 28, 6, 5, 2),
    Layer("W3 conv2", 1000, 10, 6, 14, 16, 5),
    Layer("ResNet 16", 10, 50, 16, 32, 16, 3, 1),
    Layer("ResNet 64", 10, 50, 64, 8, 64, 3, 1),
)
SMALL = (Layer("small", 3, 4, 2, 8, 5, 3, 1),)
SEPARATE = 100
"""With more models, separate convolutions are not tried: launching them takes all the time."""


def grouped(x: Tensor, w: Tensor, padding: int) -> Tensor:
    """One convolution with K groups."""
    return _back(functional.conv2d(_folded(x, w), w.flatten(0, 1), None, 1, padding, 1, len(w)), w)


def channels_last(x: Tensor, w: Tensor, padding: int) -> Tensor:
    """The same, with channels last in memory."""
    kernels = w.flatten(0, 1).contiguous(memory_format=torch.channels_last)
    rows = _folded(x, w).contiguous(memory_format=torch.channels_last)
    return _back(functional.conv2d(rows, kernels, None, 1, padding, 1, len(w)), w)


def separate(x: Tensor, w: Tensor, padding: int) -> Tensor:
    """K convolutions."""
    pairs = zip(x.chunk(len(w)), w.unbind(), strict=True)
    return torch.cat([functional.conv2d(own, kernels, None, 1, padding) for own, kernels in pairs])


def unfolded(x: Tensor, w: Tensor, padding: int) -> Tensor:
    """Unfold, then one batched matrix product."""
    side = x.shape[-1] + 2 * padding - w.shape[-1] + 1
    columns = functional.unfold(x, w.shape[-1], padding=padding)  # (K * B, C h w, H' W')
    columns = columns.view(len(w), -1, *columns.shape[1:]).transpose(2, 3)
    rows = torch.bmm(columns.flatten(1, 2), w.flatten(2).transpose(1, 2))
    return rows.view(len(x), side, side, -1).movedim(-1, 1)


def _folded(x: Tensor, w: Tensor) -> Tensor:
    """Return `(K * B, C, H, W)` as `(B, K * C, H, W)`."""
    return x.view(len(w), -1, *x.shape[1:]).transpose(0, 1).flatten(1, 2)


def _back(y: Tensor, w: Tensor) -> Tensor:
    """Return `(B, K * O, H, W)` as `(K * B, O, H, W)`."""
    return y.unflatten(1, (len(w), -1)).transpose(0, 1).flatten(0, 1)


def by_triton(x: Tensor, w: Tensor, padding: int) -> Tensor:
    """Return what fedalign runs on a GPU."""
    how = Convolution((1, 1), (padding, padding), (1, 1))
    y: Tensor = triton_conv(x, w, None, Target(torch.empty_like(w), 0.0), None, how)
    return y


WAYS: dict[str, Conv] = {
    "triton": by_triton,
    "grouped": grouped,
    "grouped, channels last": channels_last,
    "separate": separate,
    "unfold + bmm": unfolded,
}


def both_ways(conv: Conv, x: Tensor, w: Tensor, padding: int) -> tuple[Tensor, ...]:
    """Return the output, and the gradients of inputs and kernels under gradients of ones."""
    y = conv(x, w, padding)
    weights = () if conv is by_triton else (w,)  # it puts their gradient where it belongs
    return y, *torch.autograd.grad(y, (x, *weights), torch.ones_like(y))


def captured(work: Callable[[], object]) -> Callable[[], object]:
    """Return work as a CUDA graph, replayed."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def milliseconds(work: Callable[[], object], repeats: int = 7) -> float:
    """Return the median time of a call, after two that warm up; calls wait for the GPU."""
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    taken = []
    for _ in range(repeats + 2):
        wait()
        began = time.perf_counter()
        work()
        wait()
        taken.append(1e3 * (time.perf_counter() - began))
    return median(taken[2:])


@cache
def peak(device: torch.device, dtype: torch.dtype) -> float:
    """Return the operations a second of a large matrix product."""
    size = 8192 if device.type == "cuda" else 128
    a = torch.ones(size, size, device=device, dtype=dtype)
    return 2.0 * size**3 / milliseconds(lambda: a @ a) * 1e3


def rows(layer: Layer, bf16: bool, device: torch.device, names: Sequence[str]) -> Iterator[str]:
    """Yield a table's rows for a layer; on a GPU each way is captured."""
    x, w = layer.tensors(device)
    best = peak(device, torch.bfloat16 if bf16 else torch.float32)
    for name in names:
        conv = WAYS[name]
        if (name == "separate" and layer.k > SEPARATE) or (name == "triton" and not x.is_cuda):
            continue

        def work(conv: Conv = conv) -> object:
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                return both_ways(conv, x, w, layer.padding)

        def forward(conv: Conv = conv) -> object:
            with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                return conv(x, w, layer.padding)

        try:
            ways = [captured(one) if x.is_cuda else one for one in (forward, work)]
            ahead, both = map(milliseconds, ways)
        except RuntimeError as error:
            yield f"| {layer.name} | {name} | {str(error).splitlines()[0]} | | |"
            continue
        share = 3 * layer.flops / (both / 1e3) / best
        yield f"| {layer.name} | {name} | {ahead:.2f} | {both:.2f} | {share:.0%} |"


def table(layers: Sequence[Layer], bf16: bool, end: float, names: Sequence[str]) -> Iterator[str]:
    """Yield the lines of the table; layers that were not begun at `end` are named."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    best = peak(device, torch.bfloat16 if bf16 else torch.float32)
    precision = "bf16" if bf16 else "float32 (TF32 on a GPU)"
    yield f"Convolutions, {precision}; the largest matrix product: {best / 1e12:.2f} TFLOP/s"
    yield from ("", "| layer | way | forward ms | all three ms | share |", "|---|---|---|---|---|")
    for layer in layers:
        if time.monotonic() > end:
            yield f"| {layer.name} | skipped: no time left | | | |"
        else:
            yield from rows(layer, bf16, device, names)
    yield ""


def main() -> None:
    """Print the tables, each line as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--precision", nargs="+", default=["float32", "bf16"])
    parser.add_argument("--seconds", type=float, default=60.0, help="begin no layer after these")
    parser.add_argument("--small", action="store_true", help="a tiny layer only, to try the script")
    parser.add_argument("--ways", nargs="+", default=["triton", "grouped"], choices=WAYS)
    parser.add_argument("--benchmark", action="store_true", help="let cuDNN time its algorithms")
    given, started = parser.parse_args(), time.monotonic()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.deterministic = not given.benchmark  # as fedalign runs them
    torch.backends.cudnn.benchmark = given.benchmark
    for number, precision in enumerate(given.precision, 1):
        end = started + given.seconds * number / len(given.precision)
        layers = SMALL if given.small else LAYERS
        for line in table(layers, precision == "bf16", end, given.ways):
            print(line, flush=True)


if __name__ == "__main__":
    main()
