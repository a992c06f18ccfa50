"""Rounds that end with a fusion: greedy soup, TIES and others in place of the average."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import torch
from flwr.app import ArrayRecord, Message, MetricRecord

from fedalign.errors import InputError
from fedalign.federation.federation import Federation
from fedalign.fusions.recipe import Ingredients, Supplies, apply, needs_of, require
from fedalign.fusions.supplies import CURE, held_out, supplies_of
from fedalign.messages.partial_sums import averages, mean_metrics
from fedalign.messages.records import METRICS, arrays_of
from fedalign.network.batch_norm import NORMS
from fedalign.network.features import last_linear
from fedalign.settings.registry import Part, parse, traits
from fedalign.settings.result_contracts import Fusion
from strategies.wrapper import Wrapper, examples_of, metrics_of

CURES = {
    "start": "",  # the model that was sent, which is always there
    "held_out": CURE,
    "probing": ": give a larger evaluation.server_share or holdout, or metric: accuracy",
    "images": ", and the server has none",
    "symmetry": "; give its class a method symmetry()",
}


@dataclass
class Fused(Wrapper):
    """Fuse the clients' models as `fusion` says, then step as the base does (see `docs/fusing.md`).

    The base gets the fused model as the only reply: `fedavg` takes it, `fedavgm` and `fedadam` make
    their step towards it. The common start of the round's models is the model that was sent. What
    a fusion chooses by are examples that the server keeps (`evaluation.server_share`), or that
    clients hold out (`evaluation.holdout`).
    """

    federation: Federation
    fusion: Annotated[Part | str, "fusions"] = "mean"

    def __post_init__(self) -> None:
        """Raise `InputError` for a fusion or a base that cannot work."""
        part = self.fusion
        part = parse("fusions", part, "strategy.fusion") if isinstance(part, str) else part
        if not averages(self.base):
            raise InputError(
                f"strategy.base: {type(self.base).__name__} looks at each client's model, and "
                "'fused' gives it one (fedavg, fedavgm, fedadam, fedpfn, …)"
            )
        if not traits("fusions", part.name).makes_model:
            raise InputError(f"strategy.fusion: {part.name!r} makes no model, so none can be sent")
        self.fusion = part
        self._check_private(part)
        require(part.name, part.build(), self._supplies, start=True, cures=CURES)

    def _check_private(self, part: Part) -> None:
        """Raise `InputError` for a fusion that runs models, of which the server lacks a part.

        A probe needs no head.
        """
        needs, network = set(needs_of(part.build())), self.federation.network
        private = self.federation.private
        if private and "probing" in needs and private.within(last_linear(network.module)):
            needs.discard("held_out")
        needs &= {"held_out", "images"}
        repaired = part.options.get("repair", "none") != "none" and bool(network.modules(*NORMS))
        if private and (needs or repaired):
            cure = "mean, slerp, ties" if needs else "strategy.fusion.repair: none"
            raise InputError(
                f"strategy.fusion: {part.name!r} runs the clients' models, of which the server "
                f"does not have the tensors of client.private ({cure})"
            )

    @cached_property
    def _supplies(self) -> Supplies:
        """What the server has, with a network that nobody else runs."""
        found = held_out(self.federation, share=0)
        return supplies_of(self.federation, self.federation.network.twin(), found.rows)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return what the base makes of the fused model, and the mean of the clients' metrics.

        The metric `fused_models` is the number of models that have a share in it.
        """
        listed = list(replies)
        if not listed:
            return super().aggregate_train(server_round, listed)
        of = Ingredients(
            self._supplies,
            torch.stack([self.layout.to_vector(arrays_of(reply)) for reply in listed]),
            [examples_of(reply) for reply in listed],
            self.layout.to_vector(self._sent),
        )
        assert isinstance(self.fusion, Part)
        fusion: Fusion = self.fusion.build()
        first, counters = listed[0], self.layout.counters_of(arrays_of(listed[0]))
        fused = apply(self.fusion.name, fusion, of)
        assert fused.model is not None
        first.content[METRICS] = mean_metrics([metrics_of(reply) for reply in listed])
        first.content["arrays"] = self.layout.to_record(fused.model, counters)
        arrays, metrics = super().aggregate_train(server_round, [first])
        if metrics is not None:
            metrics["fused_models"] = sum(share > 0 for share in fused.shares)
        return arrays, metrics
