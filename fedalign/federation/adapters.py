"""Low-rank adapters: layers that train in place of those beside them (LoRA, Hu et al. 2022)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from torch import nn

from fedalign.data.packaged import needed
from fedalign.errors import InputError, named
from fedalign.masks.names import tensors_named
from fedalign.network.files import names_in
from fedalign.network.layout import Layout
from fedalign.settings.common import Adapters

ADAPTED = (nn.Linear, nn.Conv2d, nn.Embedding)


def has_adapters(file: Path) -> bool:
    """Return whether the model in a file has adapters already."""
    return any(".lora_A." in name for name in names_in(file))


def adapt(module: nn.Module, how: Adapters) -> None:
    """Put adapters beside layers of a module; nothing else trains then, but what `also` names.

    Each layer W becomes W + (alpha / rank) B A. B is 0 at the start, so that the module computes
    what it did before.

    Raises:
        InputError: the package is missing, a pattern matches nothing, or the head would get one.
    """
    layers = Layout.of(module).layers
    try:
        also = tensors_named(how.also, layers)
    except ValueError as error:
        raise InputError(f"model.adapters.also: {error}") from None
    head = {entry.name.rpartition(".")[0] for entry in layers[-1]}
    chosen = _chosen(module, how.targets, head)
    peft = needed("peft", "model.adapters")
    exactly = "|".join(map(re.escape, chosen))  # of a list, peft takes the ends of names
    config = peft.LoraConfig(r=how.rank, lora_alpha=how.alpha, target_modules=exactly)
    with named("model.adapters"):
        peft.inject_adapter_in_model(config, module)
    for name, parameter in module.named_parameters():
        if name in also:
            parameter.requires_grad_(True)
    # What is known of its neurons is no longer true.
    module.symmetry = tuple  # type: ignore[assignment]


def _chosen(module: nn.Module, patterns: str, head: set[str]) -> list[str]:
    """Return the names of the layers that get an adapter."""
    known = {n: own for n, own in module.named_modules() if isinstance(own, ADAPTED)}
    if not patterns:
        linear = [n for n, own in known.items() if isinstance(own, nn.Linear) and n not in head]
        if not linear:
            raise InputError(f"model.adapters.targets: no linear layer but the head{_some(known)}")
        return linear
    found: list[str] = []
    for pattern in patterns.split():
        own = [name for name in known if fnmatchcase(name, pattern)]
        if not own:
            raise InputError(f"model.adapters.targets: {pattern!r} is no layer{_some(known)}")
        found += own
    if taken := head.intersection(found):
        whole = f"{min(taken)!r} is the head, which trains as a whole (model.adapters.also)"
        raise InputError(f"model.adapters.targets: {whole}")
    return list(dict.fromkeys(found))


def _some(known: Iterable[str]) -> str:
    return f" ({', '.join(known) or 'there are none that can have one'})"
