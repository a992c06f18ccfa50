"""FedAvg's local training, under the mask that the server plans."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import cos, pi
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import AfterValidator, BeforeValidator, Field
from torch import Tensor

from clients.augment import NAMES, Augmentation
from clients.rates import WithinRound
from clients.steps import Step
from clients.training import Training
from fedalign.algorithm import Stack, Trained
from fedalign.data import Spec
from fedalign.errors import InputError
from fedalign.network.device import torch_threads
from fedalign.network.losses import Loss

__all__ = ["Local", "Training"]


OWN_STEPS = ("epochs", "lr", "lr_schedule", "lr_decay", "lr_within_round", "warmup", "weight_decay")
"""Options in which clients of one stack may differ, whatever their loss is."""


def _several(given: object) -> object:
    """Return a list of what is given; a single name needs no list."""
    return [given] if isinstance(given, str) else given


def _once(names: tuple[str, ...]) -> tuple[str, ...]:
    if len(set(names)) < len(names):
        raise ValueError("each may be named once")
    return names


@dataclass(frozen=True)
class Local:
    """Minibatch SGD, Adam or AdamW on the client's own examples (FedAvg, McMahan et al. 2017).

    The optimiser starts fresh in each round and whenever the mask changes; otherwise old momentum
    would move weights that are now fixed.

    Other algorithms are subclasses that override some of `begin`, `loss`, `gradients`, `correct`,
    `pull` and `finish`, such as this one with an option of its own. One that reads none of
    `Local.stacked_options` from `self` can say so, so that clients that differ in them are stacked:

        @dataclass(frozen=True)
        class Lasso(Local):
            l1: Annotated[float, Field(ge=0, description="weight of the L1 norm")] = 1e-4

            def correct(self, training: Training, gradient: Tensor) -> None:
                gradient.add_(training.weights[: len(gradient)].sign(), alpha=self.l1)
    """

    epochs: Annotated[
        int, Field(gt=0, description="passes over the client's own examples in each round")
    ] = 1
    batch_size: Annotated[
        int,
        Field(gt=0, description="examples in each step; the last batch of an epoch may be smaller"),
    ] = 32
    optimizer: Annotated[
        Literal["sgd", "adam", "adamw"],
        Field(description="the client's optimiser"),
    ] = "sgd"
    lr: Annotated[float, Field(gt=0, description="learning rate of the first round")] = 0.05
    lr_schedule: Annotated[
        Literal["constant", "exponential", "cosine"],
        Field(description="how the learning rate changes from round to round"),
    ] = "constant"
    lr_decay: Annotated[
        float,
        Field(
            gt=0,
            le=1,
            description="with lr_schedule exponential, factor on the learning rate for each round",
        ),
    ] = 0.99
    lr_within_round: Annotated[
        WithinRound,
        Field(
            description="how the learning rate changes over the steps of a client's round, from "
            "that of the round towards 0"
        ),
    ] = "constant"
    warmup: Annotated[
        float,
        Field(
            ge=0,
            le=1,
            description="share of a client's steps in a round at whose end the learning rate has "
            "risen to that of the round; 0: it begins there",
        ),
    ] = 0.0
    momentum: Annotated[float, Field(ge=0, lt=1, description="momentum of SGD; 0: none")] = 0.9
    weight_decay: Annotated[
        float,
        Field(
            ge=0,
            description="factor of the weights that is added to the gradient; with adamw, times "
            "the learning rate, the share that weights lose in each step; 0: none",
        ),
    ] = 5e-4
    label_smoothing: Annotated[
        float,
        Field(ge=0, lt=1, description="share of each label that all classes get in equal parts"),
    ] = 0.0
    mixup: Annotated[
        float,
        Field(
            ge=0,
            description="alpha: each example of a batch is mixed with the next one in a share from "
            "Beta(alpha, alpha); 0: examples are not mixed",
        ),
    ] = 0.0
    augment: Annotated[
        tuple[Augmentation, ...],
        BeforeValidator(_several),
        AfterValidator(_once),
        Field(
            description="random changes of the images that a client trains on, in this order",
            json_schema_extra={"allowed": "any of " + ", ".join(NAMES)},
        ),
    ] = ()
    clip_norm: Annotated[
        float,
        Field(
            ge=0,
            description="largest L2 norm of a gradient; a longer one is scaled down to it; 0: "
            "gradients are not clipped",
        ),
    ] = 0.0
    threads: Annotated[
        int, Field(gt=0, description="threads of PyTorch that a client trains with")
    ] = 1

    smooths: ClassVar[bool] = True  # its loss takes `label_smoothing` into account
    stacked_options: ClassVar[tuple[str, ...]] = (*OWN_STEPS, "label_smoothing")

    def __init_subclass__(cls) -> None:
        """Expect of a subclass that it says what it can do, where it may do otherwise than this."""
        if "loss" in vars(cls) and "smooths" not in vars(cls):
            cls.smooths = False
        if "stacked_options" not in vars(cls):  # it may read them from `self`
            cls.stacked_options = ()

    def __post_init__(self) -> None:
        """Refuse options that contradict the algorithm."""
        if self.label_smoothing and not self.smooths:
            raise ValueError(
                f"label_smoothing: {self.label_smoothing:g} is not allowed: the loss of "
                f"{type(self).__name__} does not smooth labels, or its class lacks `smooths = True`"
            )

    def check_examples(self, spec: Spec) -> None:
        """Raise `InputError` for options that cannot be used with examples like these."""
        if self.augment and len(spec.shape) != 3:
            what = f"client.augment: {', '.join(self.augment)} is for images"
            raise InputError(f"{what}, and the data are {spec.kind}")
        if self.mixup and (spec.is_text or spec.label_sets):
            what = "text cannot be mixed" if spec.is_text else "labels of two tasks cannot be mixed"
            raise InputError(
                f"client.mixup: {self.mixup:g} is not allowed: {what}, and the data are {spec.kind}"
            )

    def train(self, stack: Stack) -> Trained:
        """Train the block of a stack in place; return losses, vectors to send and client state."""
        training = Training(self, stack)
        with torch_threads(self.threads):
            self.begin(training)
            losses = training.run(partial(self.step, training))
            sizes = torch.from_numpy(training.plan.sizes)
            result = Trained((losses.cpu() * sizes).sum(0) / sizes.sum(0))
            result.metrics["normalized_steps"] = torch.tensor(training.normalized_steps)
            self.finish(training, result)
            training.release(result)
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
        """Return the loss of a step, a `fedalign.network.losses.Loss`; None is cross-entropy.

        A class whose own loss gives `self.label_smoothing` to `losses_of` says `smooths = True`.
        """
        return None

    def correct(self, training: Training, gradient: Tensor) -> None:
        """Add to the gradients `(k, P)` of a step; they may hold momentum, so do not scale them."""

    def pull(self) -> float:
        """Return mu if `correct` adds mu (w - w_t), for `Training.normalized_steps`; else 0."""
        return 0.0

    def finish(self, training: Training, result: Trained) -> None:
        """Add to the result what clients send to the strategy and store for themselves."""

    def metric_bounds(self, num_examples: int) -> dict[str, tuple[float, float]]:
        """Return the bounds of `normalized_steps`: one step, and all of them with momentum."""
        steps = self.epochs * -(-num_examples // self.batch_size)
        momentum = self.momentum if self.optimizer == "sgd" else 0.0
        steady = self.lr_within_round == "constant" and not self.warmup
        least = 1.0 if self.pull() == 0 or (steady and self.pull() * self.lr < 1) else 0.0
        return {"normalized_steps": (least, steps / (1 - momentum))}

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
        training.images = training.images_of(step)
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
