"""What a module keeps beside the tensors of a model, such as a count of its calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import numpy as np
from torch import Tensor, nn

OF_ANY_MODULE = frozenset(vars(nn.Module()))
Kept = list[dict[str, Any]]


class State:
    """The integer buffers of a module, and the attributes that its own code may change.

    What cannot be copied, such as an open file, is left alone.

    Args:
        module: as it is now is how `restore` makes it again.
    """

    def __init__(self, module: nn.Module):
        self._parts = list(own_parts(module))
        self._shared = [*module.modules(), *module.parameters(), *module.buffers()]
        self._counters = [(b, b.clone()) for b in module.buffers() if not b.is_floating_point()]
        self._first = self._now()

    def restore(self) -> None:
        """Put everything back."""
        for buffer, value in self._counters:
            buffer.copy_(value)
        self._put(self._first)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Run the body, in evaluation mode, as from the start; then go on from here."""
        now = self._now()
        self._put(self._first)
        try:
            yield
        finally:
            self._put(now)

    def changed(self) -> str:
        """Return the name of an attribute or buffer that is not as it was; "" if all are."""
        for (prefix, _), now, first in zip(self._parts, self._now(), self._first, strict=True):
            for name in sorted(now.keys() | first.keys()):
                if not _alike(now.get(name), first.get(name)):
                    return f"{prefix}.{name}".lstrip(".")
        return ""

    def _now(self) -> Kept:
        memo = {id(value): value for value in self._shared}
        return [
            {name: _copy(value, memo) for name, value in _attributes(part).items()}
            | {name: value.clone() for name, value in _counters(part).items()}
            for _, part in self._parts
        ]

    def _put(self, kept: Kept) -> None:
        memo = {id(value): value for value in self._shared}
        for (_, part), values in zip(self._parts, kept, strict=True):
            counters = _counters(part)
            for name in _attributes(part).keys() - values.keys():
                delattr(part, name)
            for name, value in values.items():
                if name in counters:
                    counters[name].copy_(value)
                else:  # `setattr` would take a module for a part
                    vars(part)[name] = _copy(value, memo)


def own_parts(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield the parts of a module that are a user's own, with their names."""
    for name, part in module.named_modules():
        if not type(part).__module__.startswith(("torch.", "fedalign.")):
            yield name, part


def _attributes(part: nn.Module) -> dict[str, Any]:
    return {name: value for name, value in vars(part).items() if name not in OF_ANY_MODULE}


def _counters(part: nn.Module) -> dict[str, Tensor]:
    """Return a part's integer buffers."""
    own = part.named_buffers(recurse=False)
    return {name: buffer for name, buffer in own if not buffer.is_floating_point()}


def _copy(value: Any, memo: dict[int, Any]) -> Any:
    try:
        return deepcopy(value, memo)
    except Exception:  # of its own code
        return value


def _alike(now: Any, first: Any) -> bool:
    """Return whether a value is what it was, or only an activation that the module remembers."""
    if now is first or (isinstance(now, Tensor) and not isinstance(first, Tensor)):
        return True
    if type(now) is not type(first):
        return False
    if isinstance(now, Tensor | np.ndarray):
        return now.shape == first.shape and bool((now == first).all())
    if isinstance(now, dict):
        return now.keys() == first.keys() and all(_alike(now[key], first[key]) for key in now)
    if isinstance(now, list | tuple):
        return len(now) == len(first) and all(map(_alike, now, first))
    if isinstance(now, np.random.Generator):
        return _alike(now.bit_generator.state, first.bit_generator.state)
    for name in ("get_state", "getstate"):  # of PyTorch's, NumPy's older and Python's generators
        if hasattr(now, name):
            return _alike(getattr(now, name)(), getattr(first, name)())
    return bool(now == first) or (hasattr(now, "__dict__") and _alike(vars(now), vars(first)))
