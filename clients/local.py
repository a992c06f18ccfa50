"""Local training as FedAvg's client does it, under whatever mask the server plans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from clients.batches import Batches
from clients.optimizers import SGD, Adam, Optimizer
from fedalign.data import Dataset
from fedalign.masks import Freezer, MaskPlan, phases
from fedalign.network import Network, torch_threads


@dataclass(frozen=True)
class Local:
    """Minibatch SGD or Adam on the client's own examples (McMahan et al. 2017, FedAvg).

    The optimiser starts fresh in each round, and again when the mask changes: momentum from
    before the change would go on moving weights that are now fixed.
    """

    epochs: Annotated[int, Field(gt=0, description="passes over the client's examples")] = 1
    batch_size: Annotated[int, Field(gt=0, description="examples in a step")] = 32
    optimizer: Annotated[Literal["sgd", "adam"], Field(description="update rule")] = "sgd"
    lr: Annotated[float, Field(gt=0, description="learning rate")] = 0.05
    momentum: Annotated[float, Field(ge=0, lt=1, description="of SGD")] = 0.9
    weight_decay: Annotated[float, Field(ge=0, description="L2 term")] = 5e-4
    threads: Annotated[int, Field(gt=0, description="torch threads a client trains with")] = 1

    def train(
        self,
        network: Network,
        block: Tensor,
        data: Dataset,
        rows: Sequence[np.ndarray],
        plan: MaskPlan,
        streams: Sequence[np.random.Generator],
    ) -> Tensor:
        """Return each client's mean training loss `(K,)`; trains `block` in place.

        Args:
            network: the network that all clients share.
            block: `(K, F)`, one model a client.
            data: the training set on the network's device.
            rows: which examples of `data` each client owns. Who has most stands first, so that
                whoever is done stands behind whoever is not, and the block shrinks.
            plan: this round's mask plan.
            streams: each client's generator for the order of its examples.
        """
        weights = block[:, : network.layout.num_parameters]
        batches = Batches(rows, streams, self.epochs, self.batch_size, block.device)
        planned = [phases(plan, network.layout, steps) for steps in batches.steps]
        optimizer, freezer = self._optimizer(weights), Freezer(weights, planned)
        losses = torch.zeros(batches.sizes.shape, device=block.device)
        with torch_threads(self.threads):
            for step in range(batches.steps[0]):
                index, sizes = batches.at(step)
                k = len(sizes)
                for row in freezer.enter(step, weights):
                    optimizer.reset(row)
                images, labels = data.images[index], batches.mark(data.labels[index], sizes)
                losses[step, :k] = network.gradients(
                    block[:k], images, labels, sizes, optimizer.gradient[:k], optimizer.keep
                )
                optimizer.step(weights[:k])
                freezer.put_back(weights[:k])
        return (losses.cpu() * batches.sizes).sum(0) / batches.sizes.sum(0)

    def _optimizer(self, weights: Tensor) -> Optimizer:
        if self.optimizer == "adam":
            return Adam(weights, self.lr, self.weight_decay)
        return SGD(weights, self.lr, self.momentum, self.weight_decay)
