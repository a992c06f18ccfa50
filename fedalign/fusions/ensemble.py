"""The ensemble of all models: what a fused model is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from fedalign.data import Dataset
from fedalign.fusions.recipe import Fused, Ingredients, alike
from fedalign.landscape.barriers import Point
from fedalign.network.losses import losses_of
from fedalign.network.network import Network

BATCH = 500  # images in one forward pass
Averaged = Literal["logits", "probabilities"]


@dataclass(frozen=True)
class Ensemble:
    """All models predict together: a reference for fused models, and no model itself.

    Their logits are averaged as in Wortsman et al. 2022, section 2; probabilities as in
    Lakshminarayanan et al. 2017 (deep ensembles). It costs as many passes as there are models.
    """

    makes_model = False

    average: Annotated[Averaged, Field(description="what is averaged")] = "logits"

    def fuse(self, of: Ingredients) -> Fused:
        """Return what measures the ensemble."""
        predict = partial(measured, of.supplies.network, of.models, self.average)
        return Fused(None, of.models, alike(len(of.models)), predict=predict)


def measured(network: Network, models: Tensor, average: Averaged, data: Dataset) -> Point:
    """Return mean cross-entropy and accuracy of models `(K, F)` that predict together."""
    total, labels = torch.zeros((), dtype=torch.float64), data.labels.to(network.device)
    for model in models:
        batches = torch.split(data.images, BATCH)
        logits = torch.cat([network.watch(model, own, [""])[""] for own in batches]).double()
        logits = network.tasks.own(logits, labels)
        total = total + (logits if average == "logits" else logits.softmax(1))
    mean = total / len(models)
    logits = mean if average == "logits" else mean.log()
    accuracy = (logits.argmax(1) == labels).double().mean()
    return float(losses_of(logits, labels).mean()), float(accuracy)
