"""MOON: model-contrastive federated learning (Li, He and Song 2021, CVPR)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from clients.local import OWN_STEPS, Local, Training
from fedalign.algorithm import Trained
from fedalign.network.losses import Loss, losses_of


@dataclass(frozen=True)
class MOON(Local):
    """Features near the global model's, far from the client's last (MOON, Li et al. 2021, eq. 3).

    The features z are the input of the last linear layer; z_glob are those of the global model and
    z_prev those of the client's own model from the last round in which it took part (the global
    model if there was none). The term is `-log(e^(cos(z, z_glob)/T) / (e^(cos(z, z_glob)/T) +
    e^(cos(z, z_prev)/T)))`. The paper adds a projection head; the
    models here have none.
    """

    stateful = True
    uses_features = True
    smooths = True
    stacked_options = OWN_STEPS

    mu: Annotated[
        float, Field(ge=0, description="weight of the contrastive term; 0: as in FedAvg")
    ] = 1.0
    temperature: Annotated[
        float, Field(gt=0, description="temperature of the contrastive term, T in the paper")
    ] = 0.5

    def begin(self, training: Training) -> None:
        """Look up the global model and the last model of each client."""
        if training.stack.private is None:
            training.own["previous"] = training.client_state("model", training.start)
            return
        training.own["global"] = models = training.global_models()
        training.own["previous"] = training.client_state("model", list(models))

    def loss(self, training: Training) -> Loss:
        """Return cross-entropy plus mu times the contrastive term."""
        network, images = training.stack.network, training.images
        if "global" in training.own:
            glob = network.features(training.own["global"][: len(images)], images)
        else:
            glob = network.features(training.start[None], images.flatten(0, 1)[None])
            glob = glob.view(*images.shape[:2], -1)
        prev = network.features(training.own["previous"][: len(images)], images)

        def contrastive(logits: Tensor, labels: Tensor, z: Tensor, clients: slice) -> Tensor:
            count = z.shape[1]
            near = functional.cosine_similarity(z, glob[clients, :count], dim=-1)
            far = functional.cosine_similarity(z, prev[clients, :count], dim=-1)
            term = functional.softplus((far - near) / self.temperature)
            own = losses_of(logits, labels, self.label_smoothing)
            return own + self.mu * torch.where(labels >= 0, term, 0)

        return contrastive

    def finish(self, training: Training, result: Trained) -> None:
        """Store the models."""
        result.client_state["model"] = training.block.clone()
