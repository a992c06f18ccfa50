"""What one example costs a network: arithmetic, and the memory of its backward pass."""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.modules.module import register_module_forward_hook

from fedalign.network.constants import constants


class Footprint(NamedTuple):
    """The cost of one example in a forward pass of one model.

    Attributes:
        multiply_adds: of linear, convolutional and recurrent layers.
        activations: bytes that the backward pass needs, beside the weights.
    """

    multiply_adds: int
    activations: int


def footprint(
    run: Callable[[Tensor], Tensor], weights: Tensor, module: nn.Module, examples: Tensor
) -> Footprint:
    """Return the cost of one of these examples, which is counted and not timed.

    `run` is a module with these weights; neither they nor its constants count as activations.
    PyTorch's own counter would import its compiler, which takes seconds and 200 MB.
    """
    stored: dict[int, int] = {}
    counted: list[int] = []

    def store(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        stored[storage.data_ptr()] = storage.nbytes()
        return tensor

    owner = get_ident()

    def count(module: nn.Module, _inputs: Any, output: Any) -> None:
        if get_ident() == owner:  # other threads run networks of their own
            counted.append(_multiply_adds(module, output))

    handle = register_module_forward_hook(count)
    try:
        with saved_tensors_hooks(store, lambda tensor: tensor):
            logits = run(examples)  # alive until the end, so that no address is used twice
    finally:
        handle.remove()
    for own in (weights, *constants(module).values()):
        stored.pop(own.untyped_storage().data_ptr(), None)
    del logits
    return Footprint(sum(counted) // len(examples), sum(stored.values()) // len(examples))


def _multiply_adds(module: nn.Module, output: Any) -> int:
    """Return the multiply-adds of a layer's forward pass."""
    if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return int(output.numel() * module.weight[0].numel())
    if isinstance(module, nn.RNNBase):
        out = output[0]
        weights = sum(p.numel() for name, p in module.named_parameters() if "weight" in name)
        return int(out.numel() // out.shape[-1] * weights)
    return 0
