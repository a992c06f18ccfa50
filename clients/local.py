"""FedAvg's local training, under the mask that the server plans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import cos, pi
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from clients.optimizers import SGD, Adam, Optimizer
from clients.steps import Batches, Plan, Step
from fedalign.algorithm import Stack, Trained
from fedalign.masks.freezer import Freezer
from fedalign.masks.phases import Phase, phases
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
        with torch_threads(self.threads):
            self.begin(training)
            losses = run(self, training)
            sizes = torch.from_numpy(training.plan.sizes)
            result = Trained((losses.cpu() * sizes).sum(0) / sizes.sum(0))
            result.metrics["normalized_steps"] = torch.tensor(training.normalized_steps)
            self.finish(training, result)
        return result

    def begin(self, training: Training) -> None:
        """Prepare what an algorithm needs beside the weights, in `training.own`."""

    def gradients(self, training: Training, step: Step) -> Tensor:
        """Return the losses `(k,)` of a step and put the gradients into the optimiser.

        The images of the step, `(k, B, C, H, W)`, are `training.images`.
        """
        k, optimizer, loss = len(step.counts), training.optimizer, self.loss(training)
        out, carry = optimizer.gradient[:k], optimizer.carry
        return training.gradients(step, out, carry, loss)

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

    def step(self, training: Training, step: Step) -> Tensor:
        """Make one step of the clients that still train; return their losses `(k,)`.

        Nothing in it may depend on the host: it is captured once and replayed, with other numbers
        in the same tensors.
        """
        count = len(step.counts)
        weights, optimizer = training.weights[:count], training.optimizer
        training.images = training.stack.data.images[step.rows]
        losses = self.gradients(training, step)
        gradient = optimizer.gradient[:count]
        self.correct(training, gradient)
        trains = training.freezer.trains(count) if training.freezer.filters else None
        if trains is not None:
            gradient.mul_(trains)
        if self.clip_norm:
            norms = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)
            gradient.mul_((self.clip_norm / norms).clamp(max=1))
        optimizer.step(weights, step.rate, step.root)
        training.freezer.put_back(weights)
        return losses


def run(algorithm: Local, training: Training) -> Tensor:
    """Make all steps of a round; return the losses `(T, K)`, 0 once a client has finished."""
    plan = training.plan
    losses = torch.zeros(plan.sizes.shape, device=training.block.device)
    for number, width in enumerate(plan.widths):
        training.enter(number)
        losses[number, :width] = algorithm.step(training, plan.at(number))
    return losses


class Training:
    """A stack while it trains.

    Attributes:
        stack: the clients and what they know.
        block: the clients' models, `(K, F)`.
        weights: a view of their parameters, `(K, P)`.
        start: the global model, `(F,)`.
        lr: the learning rate of the round.
        plan: all steps of the round.
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
        self.weights = self.block[:, : layout.num_parameters]
        self.start = stack.start
        self.images, self.own = torch.empty(0), dict[str, Tensor]()
        self.lr = algorithm.lr_of(stack.server_round, stack.rounds)
        epochs = algorithm.epochs
        batches = Batches.draw(stack.rows, stack.streams, epochs, algorithm.batch_size)
        of = cache(lambda plan, steps: phases(plan, layout, steps, epochs))
        self._planned = list(map(of, stack.plans, batches.steps))
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
        ages = _ages(self._planned, batches.sizes.shape, stack.plans[0].reset)
        self.plan = Plan(batches, stack.data.labels, *self.optimizer.rates(ages))
        covered = cache(self._normalized_steps)
        self.normalized_steps = [sum(covered(p.steps) for p in own) for own in self._planned]

    def enter(self, number: int) -> None:
        """Begin a step: some clients enter another phase."""
        fresh = self.freezer.enter(number, self.weights)
        if fresh is not None:
            self.optimizer.reset(fresh)

    def gradients(
        self, step: Step, out: Tensor, keep: float = 0.0, loss: Loss | None = None
    ) -> Tensor:
        """Return the losses `(k,)` of a step; see `Network.gradients` for the rest."""
        block, network = self.block[: len(step.counts)], self.stack.network
        return network.gradients(
            block, self.images, step.labels, step.sizes, out, keep, loss, step.counts
        )

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


def _ages(planned: Sequence[Sequence[Phase]], shape: tuple[int, int], reset: bool) -> np.ndarray:
    """Return how many steps old the optimiser's state is in each step, from 1; `shape` `(T, K)`.

    A new phase starts it fresh if `reset`. Steps that a client does not make count on.
    """
    ages = np.repeat(np.arange(1, shape[0] + 1)[:, None], shape[1], axis=1)
    for row, own in enumerate(planned):
        first = 0
        for phase in own if reset else ():
            ages[first:, row] -= ages[first, row] - 1 if first < shape[0] else 0
            first += phase.steps
    return ages
