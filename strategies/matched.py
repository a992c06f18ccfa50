"""Matched averaging: clients' neurons are brought into one order before their models are fused."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
import torch
from flwr.app import ArrayRecord, Message, MetricRecord
from pydantic import Field
from torch import Tensor

from fedalign.errors import InputError
from fedalign.landscape import matching
from fedalign.landscape.universe import universe
from fedalign.messages.records import arrays_of
from fedalign.models.symmetry import Group
from fedalign.rng import rng
from fedalign.settings.contracts import AddsNoise
from strategies.wrapper import Wrapper


@dataclass
class Matched(Wrapper):
    """Clients' neurons in one order, then the base's average (after FedMA, Wang et al. 2020, ICLR).

    FedMA matches one layer after another, has clients retrain those behind it in between, and lets
    layers grow. Here all layers are matched at once, by their weights (Git Re-Basin, Ainsworth et
    al. 2023, section 3.2; many models as in C2M3), and keep their size. The new model has the order
    of the one that was sent, so that a server's momentum still belongs to the neurons it was of.

    Args:
        symmetry: which neurons can be exchanged.
        seed: the run's; decides in which order layers are matched.
    """

    moves_neurons = True

    symmetry: tuple[Group, ...]
    seed: int
    to: Annotated[
        Literal["clients", "global"],
        Field(description="clients: all to one another; global: each to the model that was sent"),
    ] = "clients"
    match_start: Annotated[
        matching.Start, Field(description="after a pass from the input on, or as it is")
    ] = "layers"

    def __post_init__(self) -> None:
        """Raise `InputError` for a model or a base that does not go with it."""
        if not self.symmetry:
            raise InputError(
                "strategy.name: 'matched', but of this model it is not known which neurons can be "
                "exchanged; give its class a method symmetry(), or take another strategy"
            )
        if self.to == "clients" and isinstance(self.base, AddsNoise):
            raise InputError(
                "strategy.to: 'clients' lets each client move the others' neurons, against which "
                "the noise of differential privacy is not measured (to: global)"
            )

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the base's aggregate of matched models; their mean sweeps are `fusion_sweeps`."""
        listed = list(replies)
        models = [self.layout.to_vector(arrays_of(reply)) for reply in listed]
        found = self._match(models, rng(self.seed, "matched", server_round)) if models else []
        for reply, model, one in zip(listed, models, found, strict=True):
            counters = self.layout.counters_of(arrays_of(reply))
            reply.content["arrays"] = self.layout.to_record(model[one.index], counters)
        arrays, metrics = super().aggregate_train(server_round, listed)
        if metrics is not None and found:
            metrics["fusion_sweeps"] = float(np.mean([one.iterations for one in found]))
        return arrays, metrics

    def _match(
        self, models: Sequence[Tensor], stream: np.random.Generator
    ) -> Sequence[matching.Matched]:
        """Return the permutation of each model `(F,)`, into the order of the one that was sent."""
        told, sent = (self.layout, self.symmetry), self.layout.to_vector(self._sent)
        if self.to == "global":
            return matching.to_reference(*told, sent, models, stream, self.match_start)
        found = universe(*told, models, stream, self.match_start).models
        mean = torch.stack([m[one.index] for m, one in zip(models, found, strict=True)]).mean(0)
        back = matching.weight_matching(*told, sent, mean, stream, self.match_start).index
        return [replace(one, index=one.index[back]) for one in found]
