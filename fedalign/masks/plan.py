"""The mask plan: which weights are fixed in a round, as a few scalars.

Server and clients draw the same mask from the same plan, so no mask travels. True trains, False is
fixed (Li et al., arXiv 2402.01342).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field

Granularity = Literal["weight", "neuron", "layer"]
Sampling = Literal["bernoulli", "exact"]
Freeze = Literal["exact", "grad_only"]


@dataclass(frozen=True)
class MaskPlan:
    """How the local training of one round is masked.

    Attributes:
        seed: the run's seed.
        mask_index: number of the mask within the run, from 0; another number is another mask.
        fixed_ratio: share of the weights that is fixed; 0 fixes nothing.
        schedule: name of a schedule, or JSON of its name and options; see `schedules.py`.
        server_round: number of the round, from 1.
        granularity: what is fixed as a whole: a single weight, an output unit with its bias and
            norm terms, or a layer.
        sampling: `bernoulli` draws for each unit independently; `exact` fixes exactly the given
            share of each tensor's weights, of each layer's neurons, or of the layers.
        include: patterns of tensor names, separated by spaces; no other tensor is ever fixed.
        exclude: patterns of tensors that are never fixed. `head` in either means the last layer.
        freeze: `exact` restores fixed weights after each step; `grad_only` just zeroes their
            gradient, so momentum and weight decay still move them.
        fixed_lr_scale: fixed weights make this share of each step; 0 holds them.
        reset: the optimiser starts fresh where the mask changes within a round.
        per_client: each client has a mask of its own (federated dropout).
        client: the client whose mask this is, if clients have their own.
    """

    seed: int = 0
    mask_index: int = 0
    fixed_ratio: Annotated[float, Field(ge=0, le=1)] = 0.0
    schedule: str = "hold"
    server_round: int = 1
    granularity: Granularity = "weight"
    sampling: Sampling = "bernoulli"
    include: str = "*"
    exclude: str = ""
    freeze: Freeze = "exact"
    fixed_lr_scale: Annotated[float, Field(ge=0, le=1)] = 0.0
    reset: bool = True
    per_client: bool = False
    client: int | None = None

    def of(self, client: int) -> MaskPlan:
        """Return the plan of one client: the same for all, unless the plan is `per_client`."""
        return replace(self, client=client) if self.per_client else self
