"""Local training as FedAvg's client does it, under whatever mask the server plans."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from clients.batches import Batches
from clients.optimizers import SGD, Adam, Optimizer
from fedalign.algorithm import Stack, Trained
from fedalign.masks.freezer import Freezer
from fedalign.masks.phases import phases
from fedalign.network.device import torch_threads
from fedalign.network.losses import Loss


@dataclass(frozen=True)
class Local:
    """Minibatch SGD or Adam on the client's own examples (FedAvg, McMahan et al. 2017).

    The optimiser starts fresh in each round, and again when the mask changes: momentum from
    before the change would go on moving weights that are now fixed.

    Other algorithms are subclasses that override some of `begin`, `loss`, `gradients`, `correct`,
    `finish`.
    """

    epochs: Annotated[int, Field(gt=0, description="passes over the client's examples")] = 1
    batch_size: Annotated[int, Field(gt=0, description="examples in a step")] = 32
    optimizer: Annotated[Literal["sgd", "adam"], Field(description="update rule")] = "sgd"
    lr: Annotated[float, Field(gt=0, description="learning rate of the first round")] = 0.05
    lr_schedule: Annotated[
        Literal["constant", "exponential", "cosine"], Field(description="of lr, over the rounds")
    ] = "constant"
    lr_decay: Annotated[float, Field(gt=0, le=1, description="a round, if exponential")] = 0.99
    momentum: Annotated[float, Field(ge=0, lt=1, description="of SGD")] = 0.9
    weight_decay: Annotated[float, Field(ge=0, description="L2 term")] = 5e-4
    clip_norm: Annotated[float, Field(ge=0, description="longest gradient of a step; 0: any")] = 0.0
    threads: Annotated[int, Field(gt=0, description="torch threads a client trains with")] = 1

    def train(self, stack: Stack) -> Trained:
        """Train the block of a stack in place; return losses, and what clients send and keep."""
        training = Training(self, stack)
        losses = torch.zeros(training.batches.sizes.shape, device=stack.block.device)
        with torch_threads(self.threads):
            self.begin(training)
            for step in range(training.batches.steps[0]):
                losses[step] = self._step(training, step)
            sizes = training.batches.sizes
            result = Trained((losses.cpu() * sizes).sum(0) / sizes.sum(0))
            result.metrics["normalized_steps"] = torch.tensor(training.normalized_steps)
            self.finish(training, result)
        return result

    def begin(self, training: Training) -> None:
        """Make ready what an algorithm needs beside the weights."""

    def gradients(
        self, training: Training, images: Tensor, labels: Tensor, sizes: list[int]
    ) -> Tensor:
        """Return the losses `(k,)` of a step, and put the gradients into the optimiser."""
        k, optimizer, loss = len(sizes), training.optimizer, self.loss(training)
        out, keep = optimizer.gradient[:k], optimizer.keep
        network = training.stack.network
        return network.gradients(training.block[:k], images, labels, sizes, out, keep, loss)

    def loss(self, training: Training) -> Loss | None:  # noqa: ARG002
        """Return the loss of a step; None is cross-entropy."""
        return None

    def correct(self, training: Training, gradient: Tensor) -> None:
        """Add to the gradients `(k, P)` what an algorithm adds."""

    def pull(self) -> float:
        """Return mu where the gradient has a term mu (w - w_t), for `Training.normalized_steps`."""
        return 0.0

    def finish(self, training: Training, result: Trained) -> None:
        """Add to the result what clients send and keep."""

    def lr_of(self, server_round: int, rounds: int) -> float:
        """Return the learning rate of a round."""
        done = server_round - 1
        if self.lr_schedule == "exponential":
            return self.lr * self.lr_decay**done
        if self.lr_schedule == "cosine":
            return self.lr * (1 + cos(pi * done / rounds)) / 2
        return self.lr

    def _step(self, training: Training, step: int) -> Tensor:
        """Make one step of those who still train; return the losses of all, 0 of the others."""
        index, sizes = training.batches.at(step)
        data, weights = training.stack.data, training.weights[: len(sizes)]
        for row in training.freezer.enter(step, training.weights):
            training.optimizer.reset(row)
        training.images = images = data.images[index]
        labels = training.batches.mark(data.labels[index], sizes)
        losses = self.gradients(training, images, labels, sizes)
        gradient = training.optimizer.gradient[: len(sizes)]
        self.correct(training, gradient)
        trains = training.freezer.trains(len(sizes)) if training.freezer.filters else None
        if trains is not None:
            gradient.mul_(trains)
        if self.clip_norm:
            norms = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
            gradient.mul_((self.clip_norm / norms).clamp(max=1))
        training.optimizer.step(weights)
        training.freezer.put_back(weights)
        return torch.nn.functional.pad(losses, (0, len(training.block) - len(sizes)))


class Training:
    """A stack while it trains.

    Attributes:
        stack: what was given.
        block: `(K, F)`, the clients' models.
        weights: `(K, P)`, a view of their parameters.
        start: `(F,)`, the global model.
        lr: the round's learning rate.
        batches: who sees which examples when.
        optimizer: holds the gradients.
        freezer: holds fixed weights.
        images: `(k, B, C, H, W)`, those of the step.
        own: what an algorithm keeps for itself until the round is over.
        normalized_steps: for each client, FedNova's ‖a_i‖₁ (Wang et al. 2020): the distance, in
            units of lr, that its steps cover under a constant gradient of 1. For SGD without
            momentum this is the number of steps.
    """

    def __init__(self, algorithm: Local, stack: Stack):
        self.stack, self.block, layout = stack, stack.block, stack.network.layout
        self.weights = self.block[:, : layout.num_parameters]
        self.start = stack.start
        self.images, self.own = torch.empty(0), dict[str, Tensor]()
        self.lr = algorithm.lr_of(stack.server_round, stack.rounds)
        epochs, device = algorithm.epochs, self.block.device
        self.batches = Batches(stack.rows, stack.streams, epochs, algorithm.batch_size, device)
        pairs = zip(stack.plans, self.batches.steps, strict=True)
        self._planned = [phases(plan, layout, steps, epochs) for plan, steps in pairs]
        clipped = bool(algorithm.clip_norm)
        self.freezer = Freezer(self.weights, self._planned, stack.plans[0], clipped)
        self.optimizer: Optimizer
        if algorithm.optimizer == "adam":
            self.optimizer = Adam(self.weights, self.lr, algorithm.weight_decay)
            self._momentum, self._pull = 0.0, 0.0
        else:
            self._momentum, self._pull = algorithm.momentum, algorithm.pull()
            raw = clipped or self.freezer.filters
            self.optimizer = SGD(
                self.weights, self.lr, algorithm.momentum, algorithm.weight_decay, raw
            )
        self.normalized_steps = [
            sum(self._normalized_steps(p.steps) for p in own) for own in self._planned
        ]

    def kept(self, name: str, newcomers: Tensor) -> Tensor:
        """Return what each client kept under a name, `(K, ...)`, or what stands for it at first."""
        known = self.stack.kept or [{} for _ in self.block]
        return torch.stack([own.get(name, newcomers) for own in known])

    def normalized_steps_of_weights(self) -> Tensor:
        """Return `normalized_steps` of each weight, `(K, P)` or `(K, 1)`: 0 where it was fixed."""
        total = torch.zeros(len(self.block), 1, device=self.block.device)
        for row, own in enumerate(self._planned):
            for phase in own:
                normalized_steps = self._normalized_steps(phase.steps)
                if phase.trains is not None and total.shape[1] == 1:
                    total = total.repeat(1, self.weights.shape[1])
                total[row] += (
                    normalized_steps
                    if phase.trains is None
                    else normalized_steps * phase.trains.to(total)
                )
        return total

    def _normalized_steps(self, steps: int) -> float:
        """Return the distance, in units of lr, that `steps` steps cover under a gradient of 1."""
        far, speed = 0.0, 0.0
        for _ in range(steps):
            speed = self._momentum * speed + 1 - self._pull * self.lr * far
            far += speed
        return far
