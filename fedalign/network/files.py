"""Tensors in files of models of unknown origin, under the names that a network has for them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fedalign.errors import InputError, shortened

NAMED = 6  # names of unexpected or missing tensors that a message lists
PICKLED = (".pt", ".pth", ".bin", ".ckpt")  # the endings of files that torch.save writes
SAFE_TORCH = "2.6"  # earlier ones can be made to run code even with weights_only
CURE = "check the configuration (model, data, model.KEY=VALUE), which defines the network"


def tensors_in(file: Path, wanted: set[str]) -> dict[str, Tensor]:
    """Return the tensors of a file under the names that they have in a network.

    The file is of safetensors, or of torch.save. What stands before the names of its tensors, such
    as `module.` or `state_dict`, is taken off.

    Args:
        file: the file.
        wanted: the names that a network has.

    Raises:
        InputError: the file cannot be read, or holds several models that have all of the names.
    """
    return _called_as(file, _tables(_read(file)), wanted)


def names_in(file: Path) -> set[str]:
    """Return the names of all tensors in a file; `InputError` if it cannot be read."""
    return {name for table in _tables(_read(file)) for name in table.tensors}


def _read(file: Path) -> Mapping[Any, Any]:
    if not file.exists():
        raise InputError(f"{file}: no such file")
    if file.is_dir():
        raise InputError(f"{file} is a folder; give a safetensors file, such as those in it")
    if file.suffix in PICKLED:
        return _read_pickled(file)
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{file} is not a safetensors file ({reason}); "
            "safetensors.torch.save_file writes one from a state dict"
        ) from None


def _read_pickled(file: Path) -> Mapping[Any, Any]:
    """Return what torch.save wrote, if it can be read without running any code of the file."""
    cure = "safetensors.torch.save_file writes a file of its state dict that is safe to read"
    if torch.__version__ < SAFE_TORCH:
        raise InputError(f"{file}: PyTorch {torch.__version__} cannot read it safely; {cure}")
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # of many kinds
        reason = shortened(str(error).partition(". ")[0], 200)
        raise InputError(
            f"{file} has more than tensors, or is damaged ({reason}); {cure}"
        ) from None
    if not isinstance(found, Mapping):
        raise InputError(f"{file} holds a {type(found).__name__}, not a state dict; {cure}")
    return found


class _Table(NamedTuple):
    """Tensors that stand in one dictionary of a file, and the place of that dictionary."""

    place: str
    tensors: dict[str, Tensor]


def _tables(found: Mapping[Any, Any], place: str = "") -> Iterator[_Table]:
    tensors = {str(key): own.detach() for key, own in found.items() if isinstance(own, Tensor)}
    if tensors or not place:
        yield _Table(place, tensors)
    for key, inner in found.items():
        if isinstance(inner, Mapping):
            yield from _tables(inner, f"{place}.{key}".lstrip("."))


class _Names(NamedTuple):
    """A way to read the names in a table of a file: with `on` in place of `off`."""

    table: int
    off: str
    on: str


def _called_as(file: Path, tables: Iterable[_Table], wanted: set[str]) -> dict[str, Tensor]:
    """Return the tensors of a file under the names that they have in the model.

    Raises:
        InputError: the file holds several models that have all of the names.
    """
    listed, scores, as_they_are = list(tables), Counter[_Names](), _Names(0, "", "")
    for on in _shared_beginnings(wanted):
        stripped = {name.removeprefix(on) for name in wanted}
        for number, table in enumerate(listed):
            for name in table.tensors:
                fits = (off for off in _beginnings(name) if name[len(off) :] in stripped)
                scores.update(_Names(number, off, on) for off in fits)
    full = [names for names in scores if scores[names] == len(wanted)]
    if len(full) > 1 and as_they_are not in full:
        called = (f"{listed[n.table].place}.{n.off}".strip(".") for n in full)
        raise InputError(
            f"{file} holds several such models ({', '.join(map(repr, called))}); save the one "
            "that you mean alone"
        )
    first = [as_they_are] if as_they_are in full else []
    best = max([*first, *scores], key=scores.__getitem__, default=as_they_are)
    return {
        best.on + name.removeprefix(best.off) if name.startswith(best.off) else name: tensor
        for name, tensor in listed[best.table].tensors.items()
    }


def _beginnings(name: str) -> list[str]:
    """Return what may stand before a name: "" and each dotted beginning.

    >>> _beginnings("module.fc.weight")
    ['', 'module.', 'module.fc.']
    """
    steps = name.split(".")
    return ["".join(f"{step}." for step in steps[:count]) for count in range(len(steps))]


def _shared_beginnings(names: Iterable[str]) -> list[str]:
    """Return the beginnings that all names have; "" is first."""
    first, *others = (_beginnings(name) for name in names)
    return [own for own in first if all(own in other for other in others)]


def untied(
    file: Path, tensors: dict[str, Tensor], aliases: Iterable[tuple[str, str]]
) -> dict[str, Tensor]:
    """Return the tensors without further names of one; `InputError` if such are not equal."""
    for alias, name in aliases:
        if alias not in tensors:
            continue
        tensor = tensors.pop(alias)
        if not torch.equal(tensors.setdefault(name, tensor), tensor):
            raise InputError(f"{file}: {name!r} and {alias!r} differ, but are one in the model")
    return tensors


def check_names(
    file: Path, tensors: Mapping[str, Tensor], names: Iterable[str], counters: Iterable[str]
) -> None:
    """Raise `InputError` for tensors that are missing, or that a network does not have."""
    known = [*names, *counters]
    unexpected = [name for name in tensors if name not in known]
    missing = [name for name in names if name not in tensors]
    differences = [f"the model has no {_some(unexpected)}"] if unexpected else []
    differences += [f"the file has no {_some(missing)}"] if missing else []
    if differences:
        raise InputError(f"{file}: {', and '.join(differences)}; {CURE}")


def check_shapes(
    file: Path, tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Raise `InputError` for tensors of other shapes than a network has."""
    pairs = [(name, tuple(tensors[name].shape), own) for name, own in shapes.items()]
    wrong = [f"{name!r} is {found}, not {own}" for name, found, own in pairs if found != own]
    if wrong:
        more = f" and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
        raise InputError(f"{file}: {', '.join(wrong[:NAMED])}{more}; {CURE}")


def check_numbers(file: Path, name: str, tensor: Tensor) -> None:
    """Raise `InputError` unless all numbers are finite, and of a floating-point type."""
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
