"""Tensors that clients keep to themselves: a part of every model that no message carries.

On the server they stay as the run began. Each client trains its own, and stores them with its
state. (FedPer, Arivazhagan et al. 2019; LG-FedAvg, Liang et al. 2020; FedBN, Li et al. 2021.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from flwr.app import Array, ArrayRecord
from torch import Tensor

from fedalign.masks.names import tensors_named
from fedalign.masks.phases import update_mask
from fedalign.masks.plan import MaskPlan
from fedalign.messages.records import STATE
from fedalign.network.arrays import LazyArray, record_of
from fedalign.network.layout import Entry, Layout

VALUES = "private values"  # their key in a client's state, which no algorithm's own has


@dataclass(frozen=True)
class Private:
    """Which tensors of a model are private; V is how many numbers they hold.

    Attributes:
        layout: of the model.
        names: of parameters and of float buffers.
    """

    layout: Layout
    names: frozenset[str]

    @classmethod
    def of(cls, patterns: str, layout: Layout) -> Private | None:
        """Return the tensors that patterns name; None for no pattern, `ValueError` for a wrong one.

        >>> layout = Layout((Entry("body", (2, 5), 0), Entry("out", (3,), 16)), (), ())
        >>> Private.of("head", layout).places()
        tensor([16, 17, 18])
        """
        names = tensors_named(patterns, layout.layers, layout.buffers)
        return cls(layout, frozenset(names)) if names else None

    def within(self, module: str | None) -> bool:
        """Return whether they all belong to one module, such as the head."""
        return module is not None and all(name.startswith(f"{module}.") for name in self.names)

    @property
    def entries(self) -> list[Entry]:
        """The private tensors, in the order in which they lie in a vector."""
        return [entry for entry in self.layout.entries if entry.name in self.names]

    def places(self, device: torch.device | None = None) -> Tensor:
        """Return where they are in a vector `(F,)`: `(V,)` int64, on a device."""
        return _places(self, device)

    def mask(self) -> Tensor:
        """Return which of the numbers of a vector are private, `(F,)` bool; padding is not."""
        mask = torch.zeros(self.layout.size, dtype=torch.bool)
        mask[self.places()] = True
        return mask

    def whole(self, model: ArrayRecord, state: Mapping[str, Any]) -> ArrayRecord:
        """Return a client's model with the private tensors in its state.

        A server that does not hold its clients' states gets the model without those tensors.
        """
        stored = state.get(STATE)
        own = dict[str, Array]()
        if isinstance(stored, ArrayRecord) and VALUES in stored:
            vector = torch.zeros(self.layout.size)
            vector[self.places()] = torch.from_numpy(stored[VALUES].numpy().copy())
            for entry in self.entries:
                own[entry.name] = LazyArray(entry.view(vector).contiguous().numpy())
        named = {name: own.get(name, array) for name, array in model.items()}
        return record_of({n: a for n, a in named.items() if n in own or n not in self.names})

    def kept(self, made: ArrayRecord, before: ArrayRecord) -> ArrayRecord:
        """Return a new global model with these tensors as they were before."""
        return record_of({n: before[n] if n in self.names else own for n, own in made.items()})


def sent_mask(plan: MaskPlan, layout: Layout, private: Private | None) -> Tensor | None:
    """Return the parameters `(P,)` that a client with this plan sends; None: all of them."""
    return update_mask(plan, layout) if private is None else _public(plan, private)


@lru_cache(maxsize=8)
def _public(plan: MaskPlan, private: Private) -> Tensor | None:
    layout = private.layout
    public = ~private.mask()[: layout.parameter_size]
    mask = update_mask(plan, layout)
    if mask is None:
        mask = layout.spread(torch.ones(layout.num_parameters, dtype=torch.bool))
    both = mask & public
    return None if int(both.sum()) == layout.num_parameters else both


@lru_cache(maxsize=8)
def _places(private: Private, device: torch.device | None) -> Tensor:
    own = [torch.arange(entry.start, entry.stop) for entry in private.entries]
    return torch.cat(own).to(device)
