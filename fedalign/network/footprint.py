"""What one example costs a network: arithmetic, and the memory of its backward pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode


class Footprint(NamedTuple):
    """The cost of one example in a forward pass of one model.

    Attributes:
        multiply_adds: of matrix products, convolutions and attention.
        activations: bytes that the backward pass needs, beside the weights.
    """

    multiply_adds: int
    activations: int


def footprint(run: Callable[[Tensor], Tensor], weights: Tensor, examples: Tensor) -> Footprint:
    """Return the cost of `run` on one of these examples; it is counted and not timed."""
    stored: dict[int, int] = {}

    def store(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        stored[storage.data_ptr()] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False) as counter, saved_tensors_hooks(store, lambda t: t):
        logits = run(examples)  # alive until the end, so that no address is used twice
    stored.pop(weights.untyped_storage().data_ptr(), None)
    del logits
    count = len(examples)
    return Footprint(counter.get_total_flops() // 2 // count, sum(stored.values()) // count)
