"""What a run starts from: a module as built, with weights of a file, and what of it trains."""

from __future__ import annotations

from dataclasses import dataclass, replace
from inspect import signature
from pathlib import Path

import torch
from torch import Tensor, nn

from fedalign.data import Spec
from fedalign.errors import InputError
from fedalign.federation.adapters import adapt, has_adapters
from fedalign.masks.names import tensors_named
from fedalign.models import refuse_tokens
from fedalign.network.constants import constants
from fedalign.network.files import check_names, check_numbers, check_shapes, tensors_in, untied
from fedalign.network.layout import Layout
from fedalign.seeding import seeded
from fedalign.settings.config import Config
from fedalign.settings.registry import Part, load, options

MODEL, RUN = "model.safetensors", "manifest.json"


@dataclass(frozen=True)
class Start:
    """A module with the first weights of a run.

    Attributes:
        module: the module.
        file: where its weights are from; None where they are drawn.
        anew: what the file has in another shape, which is drawn, in words; "" where nothing is.
        is_drawn: some of its weights are drawn nevertheless: a head, or adapters.
        flaw: why these are not the run's first weights; "" where they are.
    """

    module: nn.Module
    file: Path | None = None
    anew: str = ""
    flaw: str = ""
    is_drawn: bool = False

    def line(self) -> str:
        """Return a sentence on where the weights are from; "" where they are drawn."""
        return f"the weights are those of {self.file}{self.anew and '; '}{self.anew}"


def file_of(model: Part) -> Path | None:
    """Return the file that `model.weights` names, which is a run's final model for its folder.

    None where nothing is named, or where the model itself knows weights of that name.
    """
    named = model.options.get("weights")
    if named is None:
        return None
    place = Path(str(named)).expanduser()
    file = place / MODEL if place.is_dir() else place
    if "weights" in options(model.kind, model.name):
        is_run = place.is_dir() and (place / RUN).is_file()
        return file if is_run or place.is_file() else None
    return file


def start_of(config: Config, spec: Spec, *stream: int | str, filled: bool = True) -> Start:
    """Return the start of a run, or that of a stream, such as a client's own.

    Args:
        config: the run's.
        spec: what an example looks like.
        stream: names the draws, where they are not the run's first.
        filled: weights are read from the file that `model.weights` names; if not, all are drawn.

    Raises:
        InputError: the file cannot be read or does not fit the model, a pattern matches nothing, or
            there can be no adapters.
    """
    model, file = config.model, file_of(config.model)
    adapters, anew = model.options.get("adapters"), ""
    frozen = str(model.options.get("frozen") or "")
    if frozen and adapters is not None:
        raise InputError("model.frozen: model.adapters freezes all but what its `also` names")
    if file is not None:
        model = replace(model, options={**model.options, "weights": None})
    refuse_tokens(model.name, spec, signature(load("models", model.name)).parameters)
    given = {"classes": spec.classes, "vocabulary": spec.vocabulary}
    with seeded(config.seed, "init", *stream):
        module: nn.Module = model.build(shape=spec.shape, **given)
    file = file if filled else None
    late = file is not None and adapters is not None and has_adapters(file)
    if file is not None and not late:
        anew = fill(module, file)
    freeze(module, frozen)
    if adapters is not None:
        with seeded(config.seed, "adapters", *stream):
            adapt(module, adapters)
    if file is not None and late:
        anew = fill(module, file)
    return Start(module, file, anew, is_drawn=bool(anew) or (adapters is not None and not late))


def lenient_start(config: Config, spec: Spec) -> Start:
    """Return the start of a run where its file may be missing, as on a node.

    A node needs no first weights, since they are sent to it; but nobody sends constants.

    Raises:
        InputError: see `start_of`; also if the file is missing and the model has constants.
    """
    file = file_of(config.model)
    if file is None or file.exists():
        return start_of(config, spec)
    start = start_of(config, spec, filled=False)
    flaw = f"model.weights: {file}: no such file"
    if fixed := constants(start.module):
        first = next(iter(fixed))
        raise InputError(
            f"{flaw}; parts of this model never train and are never sent ({first!r}), so every "
            "machine needs the file"
        )
    return replace(start, flaw=flaw)


def fill(module: nn.Module, file: Path) -> str:
    """Copy the tensors of a file into a module; return what of its head is left as it is, in words.

    The head is the last layer. It is left where the file has it for another number of classes.

    Raises:
        InputError: any other tensor is missing, is unknown to the module, or has another shape.
    """
    own, aliases = _named(module)
    floats = {name: tensor for name, tensor in own.items() if tensor.is_floating_point()}
    found = untied(file, tensors_in(file, set(floats)), aliases)
    check_names(file, found, floats, own)
    head = [e.name for e in Layout.of(module).layers[-1] if _resized(own[e.name], found[e.name])]
    kept = {name: tensor for name, tensor in own.items() if name not in head and name in found}
    check_shapes(file, found, {name: tuple(tensor.shape) for name, tensor in kept.items()})
    with torch.no_grad():
        for name, tensor in kept.items():
            if name in floats:
                check_numbers(file, name, found[name])
            tensor.copy_(found[name])
    told = [
        f"{n} {tuple(own[n].shape)} starts anew; the file has {tuple(found[n].shape)}" for n in head
    ]
    return f"head {told[0]}" if told else ""


def freeze(module: nn.Module, patterns: str) -> None:
    """Make constants of the parameters that match; `InputError` for a pattern that matches none."""
    if not patterns:
        return
    try:
        names = tensors_named(patterns, Layout.of(module).layers)
    except ValueError as error:
        raise InputError(f"model.frozen: {error}") from None
    for name, parameter in module.named_parameters():
        if name in names:
            parameter.requires_grad_(False)


def _resized(own: Tensor, found: Tensor) -> bool:
    """Return whether a tensor of a head is for another number of classes."""
    return own.shape != found.shape and own.shape[1:] == found.shape[1:]


def _named(module: nn.Module) -> tuple[dict[str, Tensor], list[tuple[str, str]]]:
    """Return the tensors of a module by their first names, and further names with the first."""
    first: dict[int, str] = {}
    own: dict[str, Tensor] = {}
    aliases = []
    for name, tensor in module.state_dict(keep_vars=True).items():
        if not isinstance(tensor, Tensor):
            continue
        if first.setdefault(id(tensor), name) == name:
            own[name] = tensor
        else:
            aliases.append((name, first[id(tensor)]))
    return own, aliases
