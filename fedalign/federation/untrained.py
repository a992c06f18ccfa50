"""Refuses models of a server whose clients keep a part to themselves, which never trained there."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from fedalign.errors import InputError
from fedalign.federation.federation import Federation
from fedalign.settings.common import private_of


def check_trained(federation: Federation, model: Tensor, file: Path) -> None:
    """Raise `InputError` for a model `(F,)` of a file that has a run's first private values."""
    if federation.private is None:
        return
    start = federation.network.layout.to_vector(federation.network.initial)
    places = federation.private.places()
    if torch.equal(model.cpu()[places], start[places]):
        patterns = private_of(federation.config.client)
        raise InputError(
            f"{file}: is the server's model, of which {patterns} (client.private) never trained; "
            "give a client's model, which keep_models=last keeps, such as "
            "models/round-10/client-0.safetensors; client.private= takes the model as it is"
        )
