"""Sections of a configuration: what is measured, and how clients are simulated."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from fedalign.settings.corruptions import ALL, Corruptions, Severities
from fedalign.settings.fields import FusionsField
from fedalign.settings.section import Section as Section
from fedalign.settings.tasks import Tasks

STATISTICS_BATCH = 200  # of `evaluation.batch_size: null`, on all devices


class Evaluation(Section):
    """What the server measures after each round."""

    pairs: int = Field(
        3,
        ge=0,
        description="number of pairs of clients; loss and accuracy are measured along the line "
        "between their models",
    )
    alphas: int = Field(
        11,
        ge=0,
        description="number of points on each line, including both ends; 0: no lines are measured",
    )
    extrapolate: float = Field(
        1.0,
        ge=1,
        description="end of the line from the old global model through the new one; 1: at the new "
        "one; 2: as far again beyond it",
    )
    to_global: int = Field(
        0,
        ge=0,
        description="number of clients; the line from their models to the new global model is "
        "measured",
    )
    match: Literal["none", "weights", "activations"] = Field(
        "none",
        description="also measure lines after the neurons of each pair, and of all clients, have "
        "been matched by their weights or activations",
    )
    match_start: Literal["layers", "identity"] = Field(
        "layers",
        description="how weight matching starts; layers: from a first pass, layer by layer from "
        "the input on; identity: from the models as they are",
    )
    repair: bool = Field(
        False, description="also measure lines on which activations are rescaled (REPAIR)"
    )
    plane: int = Field(
        0,
        ge=0,
        description="points along each side of the plane through two clients' models and the "
        "model they started from; 0: no plane",
    )
    mixes: int = Field(
        0, ge=0, description="number of random weighted means of the clients' models to measure"
    )
    layers: bool = Field(
        False,
        description="also measure lines on which only one layer moves (Adilova et al. 2024)",
    )
    every: int = Field(
        1,
        ge=1,
        description="measure lines, planes, mixes, the fusion gap, fusions and corrupted images "
        "in every n-th round, and in the last one",
    )
    overlap: bool = Field(
        True, description="measure a round while the next one trains; does not change any result"
    )
    fusion_gap: bool = Field(
        False,
        description="evaluate each client's model, and compare the new global model with their "
        "mean",
    )
    fusions: FusionsField = Field(
        default=[],
        description="ways to fuse the clients' models of a round, such as [mean, greedy, "
        "{name: ties, density: 0.4}]; each is measured, beside each client's model, and changes "
        "no training",
        json_schema_extra={"allowed": "any of the fusions, or package.module:Name"},
    )
    corruptions: Corruptions = Field(
        default=[],
        description="also test the global model, ingredients and fusions on corrupted copies of "
        "the test images: none, all, or a list",
        json_schema_extra={"allowed": f"none | all | {', '.join(ALL)}"},
    )
    severity: Severities = Field(
        default=[3],
        description="how strong corruptions are, or several such numbers",
        json_schema_extra={"allowed": "1 to 5"},
    )
    corrupted_examples: int | None = Field(
        1000,
        gt=0,
        description="number of test images in each corrupted copy; null: all of them",
    )
    tasks: Tasks = Tasks()
    examples: int | None = Field(
        250,
        gt=0,
        description="number of test examples on which lines are measured; null: all of them",
    )
    bn_examples: int = Field(
        1000,
        gt=1,
        description="number of training examples on which the BatchNorm statistics of mixed "
        "models are estimated",
    )
    client_fraction: float = Field(
        0.0,
        ge=0,
        le=1,
        description="fraction of all clients that test the new model on their own data; 0: none do",
    )
    client_every: int = Field(
        1, gt=0, description="clients test in every n-th round, and in the last one"
    )
    holdout: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="fraction of its examples that each client keeps for testing and never trains "
        "on",
    )
    server_share: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="fraction of the training set that the server keeps to choose models by, and "
        "that no client has",
    )
    finetune_epochs: int = Field(
        0,
        ge=0,
        description="epochs for which a client fine-tunes the model before it tests a second "
        "time; 0: no second test",
    )
    batch_size: int | None = Field(
        None,
        gt=0,
        description="examples in one forward pass; null: 200 on a CPU and for statistics; on a "
        "GPU 2000, or what fits into a 64th of its memory",
    )
    threads: int = Field(
        default_factory=lambda: os.cpu_count() or 1,
        gt=0,
        description="number of threads for the measurements on the server",
        json_schema_extra={"shown": "the number of cores"},
    )

    @property
    def statistics_batch(self) -> int:
        """Examples in one forward pass for statistics, which is the same on all devices."""
        return self.batch_size or STATISTICS_BATCH

    @field_validator("alphas", "plane")
    @classmethod
    def _ends_and_a_middle(cls, points: int) -> int:
        if points in (1, 2):
            raise ValueError("a path, or a side of a plane, has at least 3 points; 0 measures none")
        return points

    @field_validator("finetune_epochs")
    @classmethod
    def _only_to_evaluate(cls, epochs: int, info: ValidationInfo) -> int:
        if epochs and not info.data.get("client_fraction", 1):
            raise ValueError("clients fine-tune to evaluate; give evaluation.client_fraction too")
        return epochs


class Simulation(Section):
    """How clients are simulated.

    With `stack: 1` and `partial_aggregation: false`, results are the same on every engine, bit for
    bit. Other values change the order of sums, and thereby the last bits of a result.
    """

    backend: Literal["auto", "inline", "ray", "flower"] = Field(
        "auto",
        description="auto: in this process, and on Ray workers too as soon as that pays; inline: "
        "in this process; ray: on Ray workers; flower: on Flower's engine",
    )
    client_cpus: float = Field(
        1, gt=0, allow_inf_nan=False, description="number of CPUs that Ray reserves for each worker"
    )
    client_gpus: Literal["auto"] | Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        "auto",
        description="GPUs, or a fraction of one, that Ray reserves for each worker; auto: 1 if "
        "there is a GPU and `device` allows it, which makes one worker for each GPU",
    )
    address: str | None = Field(
        None, description="address of a running Ray cluster; null: this machine alone"
    )
    stack: Literal["auto"] | Annotated[int, Field(gt=0)] = Field(
        "auto",
        description="number of clients that are trained together, as one block of models; auto: "
        "chosen from the model, the memory and the device",
    )
    partial_aggregation: bool = Field(
        True,
        description="average models where they are trained, if the strategy needs nothing but "
        "their average",
    )

    def workers_per_gpu(self, workers: int) -> int:
        """Return how many of all `workers` share a GPU, if they compute on GPUs."""
        if self.backend == "inline" or self.client_gpus == "auto" or self.client_gpus >= 1:
            return 1
        return int(1 / self.client_gpus) if self.client_gpus else workers

    def backend_config(self, device: str) -> dict[str, Any]:
        """Return these settings as the engine takes them, for clients on a `device`."""
        if self.backend == "inline":
            return {}
        gpus = 0 if self.client_gpus == "auto" and device == "cpu" else self.client_gpus
        resources = {"num_cpus": self.client_cpus, "num_gpus": gpus}
        config: dict[str, Any] = {"client_resources": resources}
        return config | ({"init_args": {"address": self.address}} if self.address else {})
