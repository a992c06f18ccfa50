"""Matched averaging: permute clients' neurons into one order before averaging their models."""

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
    """Match clients' neurons, then average as the base does (after FedMA, Wang et al. 2020, ICLR).

    FedMA matches layer by layer, lets clients retrain the later layers in between, and lets layers
    grow. Here all layers are matched at once by their weights (Git Re-Basin, Ainsworth et al. 2023,
    section 3.2; several models as in C2M3) and keep their size. The new model has the neuron order
    of the model that was sent, so the server's momentum stays with its neurons.

    Args:
        symmetry: the model's groups of exchangeable neurons.
        seed: the run's seed; decides the order in which layers are matched.
    """

    moves_neurons = True

    symmetry: tuple[Group, ...]
    seed: int
    to: Annotated[
        Literal["clients", "global"],
        Field(
            description="clients: match all clients' models to one another; global: match each to "
            "the model that the server sent"
        ),
    ] = "clients"
    match_start: Annotated[
        matching.Start,
        Field(
            description="how weight matching starts; layers: from a first pass, layer by layer "
            "from the input on; identity: from the models as they are"
        ),
    ] = "layers"

    def __post_init__(self) -> None:
        """Raise `InputError` for a model or a base strategy that cannot be matched."""
        if not self.symmetry:
            raise InputError(
                "strategy.name: 'matched' needs a model whose exchangeable neurons are known; give "
                "its class a method symmetry(), or choose another strategy"
            )
        if self.to == "clients" and isinstance(self.base, AddsNoise):
            raise InputError(
                "strategy.to: 'clients' lets each client move the neurons of others, which the "
                "noise of differential privacy ignores; use strategy.to=global"
            )

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the base's aggregate of matched models; metric `fusion_sweeps`: mean sweeps."""
        listed = list(replies)
        models = [self.layout.to_vector(arrays_of(reply)) for reply in listed]
        matched = self._match(models, rng(self.seed, "matched", server_round)) if models else []
        for reply, model, match in zip(listed, models, matched, strict=True):
            counters = self.layout.counters_of(arrays_of(reply))
            reply.content["arrays"] = self.layout.to_record(model[match.index], counters)
        arrays, metrics = super().aggregate_train(server_round, listed)
        if metrics is not None and matched:
            metrics["fusion_sweeps"] = float(np.mean([match.iterations for match in matched]))
        return arrays, metrics

    def _match(
        self, models: Sequence[Tensor], stream: np.random.Generator
    ) -> Sequence[matching.Matched]:
        """Return the permutation of each model `(F,)` into the order of the model that was sent."""
        network, sent = (self.layout, self.symmetry), self.layout.to_vector(self._sent)
        if self.to == "global":
            return matching.to_reference(*network, sent, models, stream, self.match_start)
        shared = universe(*network, models, stream, self.match_start).models
        mean = torch.stack([m[to.index] for m, to in zip(models, shared, strict=True)]).mean(0)
        back = matching.weight_matching(*network, sent, mean, stream, self.match_start).index
        return [replace(to, index=to.index[back]) for to in shared]
