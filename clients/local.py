"""FedAvg's local training, under the mask that the server plans."""

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

    The optimiser starts fresh in each round and whenever the mask changes; otherwise old momentum
    would move weights that are now fixed.

    Other algorithms are subclasses that override some of `begin`, `loss`, `gradients`, `correct`,
    `pull` and `finish`, such as this one with an option of its own:

        @dataclass(frozen=True)
        class Lasso(Local):
            l1: Annotated[float, Field(ge=0, description="weight of the L1 norm")] = 1e-4

            def correct(self, training: Training, gradient: Tensor) -> None:
                gradient.add_(training.weights[: len(gradient)].sign(), alpha=self.l1)
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
        """Train the block of a stack in place; return losses, vectors to send and client state."""
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
        """Prepare what an algorithm needs beside the weights, in `training.own`."""

    def gradients(
        self, training: Training, images: Tensor, labels: Tensor, sizes: list[int]
    ) -> Tensor:
        """Return the losses `(k,)` of a step and put the gradients into the optimiser.

        Images are `(k, B, C, H, W)`. Labels `(k, B)` are -1 for examples that only fill up a batch,
        of which `sizes` says how many count.
        """
        k, optimizer, loss = len(sizes), training.optimizer, self.loss(training)
        out, carry = optimizer.gradient[:k], optimizer.carry
        network = training.stack.network
        return network.gradients(training.block[:k], images, labels, sizes, out, carry, loss)

    def loss(self, training: Training) -> Loss | None:  # noqa: ARG002
        """Return the loss of a step, a `fedalign.network.network.Loss`; None is cross-entropy."""
        return None

    def correct(self, training: Training, gradient: Tensor) -> None:
        """Add to the gradients `(k, P)` of a step; they may hold momentum, so do not scale them."""

    def pull(self) -> float:
        """Return mu if `correct` adds mu (w - w_t), for `Training.normalized_steps`; else 0."""
        return 0.0

    def finish(self, training: Training, result: Trained) -> None:
        """Add to the result what clients send to the strategy and store for themselves."""

    def lr_of(self, server_round: int, rounds: int) -> float:
        """Return the learning rate of a round."""
        done = server_round - 1
        if self.lr_schedule == "exponential":
            return self.lr * self.lr_decay**done
        if self.lr_schedule == "cosine":
            return self.lr * (1 + cos(pi * done / rounds)) / 2
        return self.lr

    def _step(self, training: Training, step: int) -> Tensor:
        """Make one step of the clients that still train; return losses `(K,)`, 0 for the others."""
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
        stack: the clients and what they know.
        block: the clients' models, `(K, F)`.
        weights: a view of their parameters, `(K, P)`.
        start: the global model, `(F,)`.
        lr: the learning rate of the round.
        batches: which examples each client sees in each step.
        optimizer: holds the gradients and applies them.
        freezer: holds fixed weights in place.
        images: those of the current step, `(k, B, C, H, W)`.
        own: tensors that an algorithm needs during the round, by name.
        normalized_steps: for each client, FedNova's ‖a_i‖₁ (Wang et al. 2020): the distance, in
            units of lr, that its steps cover under a constant gradient of 1. For SGD without
            momentum this is the number of steps.
    """

    def __init__(self, algorithm: Local, stack: Stack):
        self.stack, self.block, layout = stack, stack.block, stack.network.layout
        self.weights = self.block[:, : layout.parameter_size]
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

    def client_state(self, name: str, default: Tensor) -> Tensor:
        """Return what each client stored under a name, `(K, ...)`; `default` for new clients."""
        states = self.stack.client_states or [{} for _ in self.block]
        return torch.stack([state.get(name, default) for state in states])

    def normalized_steps_of_weights(self) -> Tensor:
        """Return the `normalized_steps` of each weight, 0 while it was fixed.

        The shape is `(K, P)`, or `(K, 1)` where no weight was fixed.
        """
        total = torch.zeros(len(self.block), 1, device=self.block.device)
        if any(phase.trains is not None for own in self._planned for phase in own):
            total = total.repeat(1, self.weights.shape[1])
        for row, own in zip(total, self._planned, strict=True):
            for phase in own:
                steps = self._normalized_steps(phase.steps)
                row += steps if phase.trains is None else steps * phase.trains.to(row)
        return total

    def _normalized_steps(self, steps: int) -> float:
        """Return the distance, in units of lr, that `steps` steps cover under a gradient of 1."""
        far, speed = 0.0, 0.0
        for _ in range(steps):
            speed = self._momentum * speed + 1 - self._pull * self.lr * far
            far += speed
        return far
