"""In which layer a second way of running a module first differs from the module."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fedalign.network.twins import place_of

CLEAR = 1e-2  # relative; a difference that is no rounding


@dataclass
class Trace:
    """The layers that ran, in order.

    Attributes:
        outputs: with their names.
        running: the names of those that have not returned.
    """

    outputs: list[tuple[str, Tensor]] = field(default_factory=list)
    running: list[str] = field(default_factory=list)


def first_layer(
    module: nn.Module,
    plain: Callable[[], object],
    twin: nn.Module,
    other: Callable[[], object],
    sizes: Sequence[int],
) -> str:
    """Return ", first in layer …" for the layer that fails or puts out something else.

    Where none does, it is the code of the module around them.

    Args:
        module: runs one model after the other.
        plain: runs it so, with batches of these sizes.
        twin: the module's copy, which runs all models at once.
        other: runs it so; it may fail.
        sizes: of the batch of each model; those of the twin are filled up.
    """
    with _traced(module) as apart:
        plain()
    with _traced(twin) as together, suppress(Exception):
        other()
    calls, layers = len(apart.outputs) // len(sizes), dict(module.named_modules())
    for number, (name, found) in enumerate(together.outputs[:calls]):
        own = [apart.outputs[k * calls + number] for k in range(len(sizes))]
        if any(theirs != name for theirs, _ in own):
            break
        if not _alike(found, [out for _, out in own], max(sizes)):
            return f", first in {place_of(name, layers[name])}"
    stuck = together.running[-1] if together.running else ""
    return f", in {place_of(stuck, layers[stuck])}"


def _alike(found: Tensor, own: Sequence[Tensor], length: int) -> bool:
    """Return whether what all models put out at once is what each of them puts out."""
    if len(found) == length:  # no layer with weights has run
        found = found.repeat(len(own), *[1] * (found.ndim - 1))
    if len(found) != len(own) * length:
        return False
    for part, theirs in zip(torch.split(found, length), own, strict=True):
        if part.shape[1:] != theirs.shape[1:] or len(theirs) > len(part):
            return False
        far = (part[: len(theirs)].float() - theirs.float()).norm()
        if not far <= CLEAR * theirs.float().norm() + 1e-6:
            return False
    return True


@contextmanager
def _traced(module: nn.Module) -> Iterator[Trace]:
    """Record the layers inside a module that run in the body."""
    trace, handles = Trace(), []

    def enter(name: str) -> Callable[..., None]:
        return lambda *_: trace.running.append(name)

    def leave(name: str) -> Callable[..., None]:
        def hook(_layer: nn.Module, _inputs: object, out: Any) -> None:
            trace.running.pop()
            if isinstance(out, Tensor):
                trace.outputs.append((name, out.detach().clone()))

        return hook

    for name, layer in module.named_modules():
        if name:
            handles.append(layer.register_forward_pre_hook(enter(name)))
            handles.append(layer.register_forward_hook(leave(name)))
    try:
        yield trace
    finally:
        for handle in handles:
            handle.remove()
