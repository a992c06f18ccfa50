"""The private part of clients' models: from their states into their models, and back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from flwr.app import Array
from torch import Tensor

from fedalign.federation.federation import Federation
from fedalign.messages.private import VALUES, Private


def own_model(
    federation: Federation, model: Tensor, state: Mapping[str, Array] | None, partition: int
) -> Tensor:
    """Return a model `(F,)` as one client has it: with its own private tensors.

    A client that has none yet takes those of the model; with `init: own`, those of its own start.
    """
    private = federation.private
    if private is None:
        return model
    places = private.places(model.device)
    if state and VALUES in state:
        own = torch.from_numpy(state[VALUES].numpy().copy()).to(model.device)
    elif federation.config.init == "own":
        own = federation.own_start(partition)[places]
    else:
        return model
    return model.index_copy(0, places, own)


def take(private: Private, block: Tensor, start: Tensor) -> Tensor:
    """Return the private values of models `(K, F)`, `(K, V)`; the models get those of `start`.

    So nothing that looks at the models, on whatever way to the server, can see or send them.
    """
    places = private.places(block.device)
    values = block.index_select(1, places)
    block.index_copy_(1, places, start[places].expand(len(block), -1))
    return values
