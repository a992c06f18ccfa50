"""Sections of a configuration: what the server measures, and how clients are simulated."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator


class Section(BaseModel):
    """Settings that refuse a key they do not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class Evaluation(Section):
    """What the server measures after each round."""

    pairs: int = Field(3, ge=0, description="pairs of client models to interpolate between")
    alphas: int = Field(11, ge=0, description="points on each path, ends included; 0: no paths")
    extrapolate: float = Field(
        1.0, ge=1, description="where the path from the old to the new global model ends; 1: there"
    )
    to_global: int = Field(0, ge=0, description="client models with a path to the new global model")
    match: Literal["none", "weights", "activations"] = Field(
        "none", description="also align the neurons of each pair, and of all clients, by these"
    )
    match_start: Literal["layers", "identity"] = Field(
        "layers", description="of weight matching: after a pass from the input on, or as it is"
    )
    repair: bool = Field(
        False, description="paths between clients also with activations rescaled (REPAIR)"
    )
    plane: int = Field(
        0,
        ge=0,
        description="points along a side of the plane through two clients' models and the one "
        "they started from; 0: none",
    )
    mixes: int = Field(0, ge=0, description="random convex mixes of the client models")
    layers: bool = Field(
        False, description="paths between clients also for each layer alone (Adilova et al. 2024)"
    )
    every: int = Field(
        1, ge=1, description="paths and fusion gap in every n-th round, and in the last one"
    )
    overlap: bool = Field(
        True, description="measure a round while the next one trains; changes no bit"
    )
    fusion_gap: bool = Field(
        False, description="compare the new model with the clients' models; evaluates each of them"
    )
    examples: int | None = Field(
        250, gt=0, description="test examples a path is measured on; null: all of them"
    )
    bn_examples: int = Field(
        1000, gt=1, description="training examples for re-estimating BatchNorm statistics"
    )
    client_fraction: float = Field(
        0.0, ge=0, le=1, description="share of the clients that evaluate the new model themselves"
    )
    client_every: int = Field(
        1, gt=0, description="rounds from one evaluation by clients to the next; the last has one"
    )
    holdout: float = Field(
        0.0, ge=0, lt=1, description="share of its examples that a client only tests on; 0: none"
    )
    finetune_epochs: int = Field(
        0, ge=0, description="epochs of local fine-tuning before clients evaluate a second time"
    )
    batch_size: int = Field(200, gt=0, description="examples in one forward pass")
    threads: int = Field(
        default_factory=lambda: os.cpu_count() or 1,
        gt=0,
        description="threads that share the server's measuring; default: one a core",
    )

    @field_validator("alphas", "plane")
    @classmethod
    def _ends_and_a_middle(cls, points: int) -> int:
        if points in (1, 2):
            raise ValueError(
                "a path has 3 points or more, as has a side of a plane; 0 measures none"
            )
        return points

    @field_validator("finetune_epochs")
    @classmethod
    def _only_to_evaluate(cls, epochs: int, info: ValidationInfo) -> int:
        if epochs and not info.data.get("client_fraction", 1):
            raise ValueError("clients fine-tune to evaluate; give evaluation.client_fraction too")
        return epochs


class Simulation(Section):
    """How virtual clients are run.

    `stack: 1` and `partial_aggregation: false` give the same bits on every engine.

    Otherwise sums are taken in another order, which changes a result in its last bits.
    """

    backend: Literal["inline", "ray", "flower"] = Field(
        "inline",
        description="inline: in this process; ray: Ray workers; flower: Flower's own Ray engine",
    )
    client_cpus: float = Field(1, gt=0, description="CPUs that Ray reserves for a client")
    client_gpus: float = Field(0, ge=0, description="GPUs, or a fraction, that Ray reserves")
    address: str | None = Field(None, description="a running Ray cluster's; null: this machine")
    stack: Literal["auto"] | Annotated[int, Field(gt=0)] = Field(
        "auto", description="clients trained as one stacked block; auto: what is fastest here"
    )
    partial_aggregation: bool = Field(
        True, description="sum client models where they are trained, if the strategy averages them"
    )

    def backend_config(self) -> dict[str, Any]:
        """Return these settings as the engine takes them."""
        if self.backend == "inline":
            return {}
        resources = {"num_cpus": self.client_cpus, "num_gpus": self.client_gpus}
        config: dict[str, Any] = {"client_resources": resources}
        return config | ({"init_args": {"address": self.address}} if self.address else {})
