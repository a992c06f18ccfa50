"""Constants of a network: parameters with `requires_grad=False`, which never train nor travel.

The module itself holds their values, and its copies share them. A vector of a model has none.
"""

from __future__ import annotations

import hashlib
from copy import deepcopy
from typing import TypeVar

from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that train, each under its first name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def constants(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters that do not train, under all names that the state dict has for them."""
    named = model.named_parameters(remove_duplicate=False)
    return {name: p.detach() for name, p in named if not p.requires_grad}


def copied(model: M, memo: dict[int, object] | None = None) -> M:
    """Return a deep copy of a module that shares its constants; `memo` as of `deepcopy`."""
    shared = {id(p): p for p in model.parameters() if not p.requires_grad}
    return deepcopy(model, {**shared, **(memo or {})})


def digest(model: nn.Module) -> str:
    """Return 16 hex digits of SHA-256 of the constants; "" if there are none."""
    found = hashlib.sha256()
    for name, tensor in (fixed := constants(model)).items():
        found.update(f"{name} {tuple(tensor.shape)}".encode())
        found.update(tensor.cpu().contiguous().numpy().data)
    return found.hexdigest()[:16] if fixed else ""
