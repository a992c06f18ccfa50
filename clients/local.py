"""Local training as FedAvg's client does it, under whatever mask the server plans."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from clients.optimizers import Step, adam, sgd
from fedalign.data import Dataset
from fedalign.masks import MaskPlan, Phase, phases
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
            block: `(K, F)`, one model a client; K = 1 so far.
            data: the training set on the network's device.
            rows: which examples of `data` each client owns.
            plan: this round's mask plan.
            streams: each client's generator for the order of its examples.
        """
        (owned,), (stream,) = rows, streams
        batches = self._batches(owned, stream, network.device)
        with torch_threads(self.threads):
            planned = phases(plan, network.layout, len(batches))
            losses = _run(network, block, data, iter(batches), planned, self._optimizer)
        sizes = torch.tensor([len(batch) for batch in batches], device=block.device)
        return (torch.stack(losses) * sizes[:, None]).sum(0) / sizes.sum()

    def _batches(
        self, owned: np.ndarray, stream: np.random.Generator, device: torch.device
    ) -> list[Tensor]:
        order = [torch.from_numpy(stream.permutation(owned)) for _ in range(self.epochs)]
        return [
            batch for epoch in order for batch in torch.split(epoch.to(device), self.batch_size)
        ]

    def _optimizer(self) -> Step:
        if self.optimizer == "adam":
            return adam(self.lr, self.weight_decay)
        return sgd(self.lr, self.momentum, self.weight_decay)


def _run(
    network: Network,
    block: Tensor,
    data: Dataset,
    batches: Iterator[Tensor],
    planned: Sequence[Phase],
    new_optimizer: Callable[[], Step],
) -> list[Tensor]:
    """Return the loss of each step.

    Fixed weights are put back after the step: exact, whatever momentum or weight decay did.
    """
    weights = block[:, : network.layout.num_parameters]
    gradient = torch.empty_like(weights)
    losses = []
    for phase in planned:
        step = new_optimizer()
        trains = None if phase.trains is None else phase.trains.to(block.device)
        anchor = weights.clone()
        for _ in range(phase.steps):
            batch = next(batches)
            loss = network.gradients(block, [data.images[batch]], [data.labels[batch]], gradient)
            step(weights, gradient)
            if trains is not None:
                torch.where(trains, weights, anchor, out=weights)
            losses.append(loss)
    return losses
