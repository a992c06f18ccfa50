"""Models from files of unknown origin, checked while they are read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from flwr.app import Array, ArrayRecord
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fedalign.errors import InputError
from fedalign.network.layout import Layout
from fedalign.network.network import Network

NAMED = 6  # names of unexpected or missing tensors that a message lists
CURE = "check the configuration (model, data, model.KEY=VALUE), which defines the network"


def read(file: Path, network: Network) -> Tensor:
    """Return the model `(F,)` in a safetensors file of any floating-point type.

    BatchNorm's counts of batches are ignored; any other integer buffer must be the network's own.

    Raises:
        InputError: The file cannot be read, does not fit the network, or has values that are not
            finite.
    """
    layout = network.layout
    tensors = _untied(file, _tensors(file), layout)
    for name in layout.transient:  # no file of a state dict has them
        own = torch.from_numpy(network.initial[name].numpy().copy())
        tensors.setdefault(name, own)
    _check_counters(file, tensors, network)
    names = [entry.name for entry in layout.entries]
    _check_names(file, tensors, names, layout.counters)
    for name in names:
        _check_numbers(file, name, tensors[name])
    record = ArrayRecord({name: Array(tensors[name].float().numpy()) for name in names})
    try:
        return layout.to_vector(record)
    except ValueError as error:
        raise InputError(f"{file}: {error}; {CURE}") from None


def _tensors(file: Path) -> dict[str, Tensor]:
    if not file.exists():
        raise InputError(f"{file}: no such file")
    if file.is_dir():
        raise InputError(f"{file} is a folder; give a safetensors file, such as those in it")
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{file} is not a safetensors file ({reason}); "
            "safetensors.torch.save_file writes one from a state dict"
        ) from None


def _untied(file: Path, tensors: dict[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Return the tensors without further names of one; `InputError` if such are not equal."""
    for alias, name in layout.aliases:
        if alias not in tensors:
            continue
        tensor = tensors.pop(alias)
        if not torch.equal(tensors.setdefault(name, tensor), tensor):
            raise InputError(f"{file}: {name!r} and {alias!r} differ, but are one in the model")
    return tensors


def _check_counters(file: Path, tensors: Mapping[str, Tensor], network: Network) -> None:
    for name in network.layout.counters:
        own = torch.from_numpy(network.initial[name].numpy().copy())
        counts = name.endswith("num_batches_tracked")
        if name in tensors and not counts and not torch.equal(tensors[name], own):
            raise InputError(
                f"{file}: {name!r} is not as in the network, which has integer buffers of its own; "
                "give the seed with which it was built"
            )


def _check_names(
    file: Path, tensors: Mapping[str, Tensor], names: Iterable[str], counters: Iterable[str]
) -> None:
    known = [*names, *counters]
    unexpected = [name for name in tensors if name not in known]
    missing = [name for name in names if name not in tensors]
    differences = [f"the model has no {_some(unexpected)}"] if unexpected else []
    differences += [f"the file has no {_some(missing)}"] if missing else []
    if differences:
        raise InputError(f"{file}: {', and '.join(differences)}; {CURE}")


def _check_numbers(file: Path, name: str, tensor: Tensor) -> None:
    if not tensor.is_floating_point():
        kind = str(tensor.dtype).removeprefix("torch.")
        raise InputError(f"{file}: {name!r} is {kind}, not a floating-point type")
    bad = int((~torch.isfinite(tensor.float())).sum())
    if bad:
        raise InputError(f"{file}: {bad} of {tensor.numel()} numbers in {name!r} are not finite")


def _some(names: Iterable[str]) -> str:
    """Return the first names and the number of others."""
    first, rest = [*names][:NAMED], [*names][NAMED:]
    return ", ".join(map(repr, first)) + (f" and {len(rest)} more" if rest else "")
