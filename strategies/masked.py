"""What FedPFN, FedPNU and FedBABU share: a mask plan for each round, around a Flower strategy."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from pydantic import Field

from fedalign.errors import InputError
from fedalign.masks.phases import update_mask
from fedalign.masks.plan import Freeze, Granularity, MaskPlan, Sampling
from fedalign.messages.partial_sums import averages
from fedalign.messages.records import write_plan
from fedalign.network.arrays import LazyArray, record_of, view_of
from fedalign.settings.registry import Part
from strategies.wrapper import Wrapper

SchedulePart = Annotated[Part | str, "schedules"]


@dataclass
class Masked(Wrapper):
    """Aggregates as the strategy `base` does; clients train under a mask plan.

    Args:
        initial: the model that the run starts with.
        seed: the run's seed; masks are drawn from it.
    """

    initial: ArrayRecord
    seed: int
    fixed_ratio: Annotated[
        float, Field(ge=0, le=1, description="share of the weights that are fixed")
    ] = 0.4
    refresh: Annotated[
        int,
        Field(
            ge=0,
            description="rounds after which a new mask is drawn; 0: one mask for the whole run "
            "(TNA-PFN)",
        ),
    ] = 1
    granularity: Annotated[
        Granularity,
        Field(
            description="what is fixed together: single weights, neurons with all their incoming "
            "weights, or layers"
        ),
    ] = "weight"
    sampling: Annotated[
        Sampling,
        Field(
            description="bernoulli: each weight is fixed with probability fixed_ratio; exact: "
            "exactly this share of each tensor is fixed"
        ),
    ] = "bernoulli"
    include: Annotated[
        str,
        Field(
            description="names of the tensors that may be fixed: patterns such as fc*, separated "
            "by spaces; head means the last layer"
        ),
    ] = "*"
    exclude: Annotated[
        str, Field(description="names of the tensors that are never fixed, in the same form")
    ] = ""
    fixed_value: Annotated[
        Literal["global", "init", "zero"],
        Field(
            description="the value of fixed weights: that of the global model, of the first "
            "model, or 0 (pruning)"
        ),
    ] = "global"
    freeze: Annotated[
        Freeze,
        Field(
            description="exact: fixed weights keep their value; grad_only: only their gradient is "
            "set to 0, and momentum and weight decay still move them"
        ),
    ] = "exact"
    fixed_lr_scale: Annotated[
        float,
        Field(
            ge=0, le=1, description="fixed weights move by this share of each step; 0: not at all"
        ),
    ] = 0.0
    reset: Annotated[
        bool,
        Field(description="start with a fresh optimiser whenever the mask changes within a round"),
    ] = True
    per_client: Annotated[
        bool, Field(description="draw another mask for each client (federated dropout)")
    ] = False
    mask_server_step: Annotated[
        bool,
        Field(
            description="the server keeps the fixed weights too, even if its optimiser has momentum"
        ),
    ] = True

    schedule: SchedulePart = "hold"

    def __post_init__(self) -> None:
        """Raise `InputError` for options that contradict each other."""
        if self.per_client and self.fixed_value != "global":
            raise InputError(
                f"strategy.fixed_value: {self.fixed_value!r} is sent with the model, which all "
                "clients get, and so cannot follow masks of their own (per_client: false, or "
                "fixed_value: global)"
            )

    @property
    def averages(self) -> bool:  # type: ignore[override]
        """Whether replies can be summed and the base starts from their weighted mean.

        Replies that are packed by different masks cannot be summed.
        """
        return averages(self.base) and not self.per_client

    def plan(self, server_round: int) -> MaskPlan:
        """Return the round's mask plan."""
        schedule = self.schedule
        return MaskPlan(
            seed=self.seed,
            mask_index=(server_round - 1) // self.refresh if self.refresh else 0,
            fixed_ratio=self.fixed_ratio,
            schedule=schedule if isinstance(schedule, str) else json.dumps(schedule.dump()),
            server_round=server_round,
            granularity=self.granularity,
            sampling=self.sampling,
            include=self.include,
            exclude=self.exclude,
            freeze=self.freeze,
            fixed_lr_scale=self.fixed_lr_scale,
            reset=self.reset,
            per_client=self.per_client,
        )

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the base's messages, with the mask plan in their configuration."""
        plan = self.plan(server_round)
        write_plan(plan, config)
        if self.fixed_value != "global":
            start = {name: self._anchor(name, array) for name, array in arrays.items()}
            # At the start they have the value, whatever the plan lets move them afterwards.
            held = replace(plan, freeze="exact", fixed_lr_scale=0.0)
            arrays = self._merged(held, arrays, record_of(start))
        return super().configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the base's aggregate, in which fixed weights are copied and not averaged.

        The float32 average of equal numbers is not always that number, and a server optimiser
        with momentum moves weights that nobody trained.
        """
        arrays, metrics = super().aggregate_train(server_round, replies)
        if arrays is not None and self.mask_server_step:
            arrays = self._merged(self.plan(server_round), arrays, self._sent)
        return arrays, metrics

    def _anchor(self, name: str, array: Array) -> Array:
        """Return the tensor that fixed weights are taken from."""
        if self.fixed_value == "init":
            return self.initial[name]
        return Array(np.zeros_like(array.numpy()))

    def _merged(self, plan: MaskPlan, moved: ArrayRecord, fixed: ArrayRecord) -> ArrayRecord:
        """Return `moved` with the weights that clients cannot change taken from `fixed`."""
        mask = update_mask(plan, self.layout)
        if mask is None:
            return moved
        merged = record_of(moved)
        for entry in self.layout.parameters:
            new, old = view_of(moved[entry.name]), view_of(fixed[entry.name])
            merged[entry.name] = LazyArray(np.where(entry.view(mask).numpy(), new, old))
        return merged
