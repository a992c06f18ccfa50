"""Models from files of unknown origin, checked while they are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from flwr.app import Array, ArrayRecord
from torch import Tensor

from fedalign.errors import InputError
from fedalign.network.constants import constants
from fedalign.network.files import check_names, check_numbers, check_shapes, tensors_in, untied
from fedalign.network.network import Network


def read(file: Path, network: Network) -> Tensor:
    """Return the model `(F,)` in a file of safetensors, or of torch.save, of any float type.

    What stands before the names of its tensors, such as `module.` or `state_dict`, is taken off.
    BatchNorm's counts of batches are ignored; any other integer buffer must be the network's own,
    and so must what never trains.

    Raises:
        InputError: The file cannot be read, does not fit the network, or has values that are not
            finite.
    """
    layout, fixed = network.layout, constants(network.module)
    names = [entry.name for entry in layout.entries]
    wanted = {*names, *fixed} - {*layout.transient}
    tensors = untied(file, tensors_in(file, wanted), layout.aliases)
    for name in layout.transient:  # no file of a state dict has them
        own = torch.from_numpy(network.initial[name].numpy().copy())
        tensors.setdefault(name, own)
    _check_counters(file, tensors, network)
    check_names(file, tensors, [*names, *fixed], layout.counters)
    _check_constants(file, tensors, fixed)
    check_shapes(file, tensors, {entry.name: entry.shape for entry in layout.entries})
    for name in names:
        check_numbers(file, name, tensors[name])
    record = ArrayRecord({name: Array(tensors[name].float().numpy()) for name in names})
    return layout.to_vector(record)


def _check_counters(file: Path, tensors: Mapping[str, Tensor], network: Network) -> None:
    for name in network.layout.counters:
        own = torch.from_numpy(network.initial[name].numpy().copy())
        counts = name.endswith("num_batches_tracked")
        if name in tensors and not counts and not torch.equal(tensors[name], own):
            raise InputError(
                f"{file}: {name!r} is not as in the network, which has integer buffers of its own; "
                "give the seed with which it was built"
            )


def _check_constants(
    file: Path, tensors: Mapping[str, Tensor], fixed: Mapping[str, Tensor]
) -> None:
    for name, own in fixed.items():
        if not torch.equal(own.cpu().to(tensors[name].dtype), tensors[name]):
            raise InputError(
                f"{file}: {name!r} never trains, and is not as in the network, where it comes from "
                "the seed or from model.weights"
            )
