"""A stack of clients while it trains."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import cache, partial
from itertools import accumulate
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from clients.augment import Augment
from clients.mixup import mixed_images, mixed_loss
from clients.optimizers import SGD, Adam, AdamW, Decay, Optimizer
from clients.rates import factors
from clients.replayed import Replayed
from clients.steps import Batches, Plan, Step
from fedalign.algorithm import Stack, Trained
from fedalign.masks.freezer import Freezer, alike
from fedalign.masks.phases import Phase, phases
from fedalign.network.graphs import Graphs
from fedalign.network.losses import Loss, cross_entropy
from fedalign.network.network import Network

if TYPE_CHECKING:
    from clients.local import Local


class Training:
    """A stack while it trains.

    Attributes:
        stack: the clients and what they know.
        block: the clients' models, `(K, F)`.
        weights: a view of their parameters, `(K, P)`.
        start: the global model, `(F,)`.
        lr: the learning rate of the round; where clients have their own, `(K, 1)`.
        plan: all steps of the round.
        optimizer: holds the gradients and applies them.
        freezer: holds fixed weights in place.
        images: those of the current step, `(k, B, C, H, W)`, as they are after augmentation.
        own: tensors that an algorithm needs during the round, by name.
        normalized_steps: for each client, FedNova's ‖a_i‖₁ (Wang et al. 2020): the distance, in
            units of lr, that its steps cover under a constant gradient of 1. For SGD without
            momentum, at a constant rate, this is the number of steps.
    """

    def __init__(self, algorithm: Local, stack: Stack):
        self.stack, self.block, layout = stack, stack.block, stack.network.layout
        self.weights = self.block[:, : layout.parameter_size]
        self.start = stack.start
        self.images, self.own = torch.empty(0), dict[str, Tensor]()
        if stack.private is not None:  # 1 where a weight is public, `(P,)`
            self.own["public"] = (~stack.private[: layout.parameter_size]).float()
        own = [cast("Local", one) for one in stack.algorithms] or [algorithm] * len(self.block)
        self._augment = Augment(algorithm.augment, stack.data, self.own)
        self._mixup, smoothing = algorithm.mixup, _common([one.label_smoothing for one in own])
        self._smoothing = smoothing if isinstance(smoothing, float) else None
        if not isinstance(smoothing, float):
            self.own["smoothing"] = torch.from_numpy(smoothing).to(self.block)
        lrs = [one.lr_of(stack.server_round, stack.rounds) for one in own]
        lr = _common(lrs)
        self.lr = lr if isinstance(lr, float) else torch.from_numpy(lr).to(self.block)
        self._momentum = algorithm.momentum if algorithm.optimizer == "sgd" else 0.0
        self._pull = algorithm.pull() if algorithm.optimizer == "sgd" else 0.0
        epochs = [one.epochs for one in own]
        random = stack.network.draws.used or bool(algorithm.augment)
        graphs = _graphs(stack.network)
        pairs = _pairs(stack, algorithm.batch_size, graphs is not None)
        counts = epochs, algorithm.batch_size
        batches = Batches.draw(stack.rows, stack.streams, *counts, random, pairs, self._mixup)
        of = cache(lambda plan, steps, epochs: phases(plan, layout, steps, epochs))
        self._planned: list[list[Phase]] = list(map(of, stack.plans, batches.steps, epochs))
        clipped = bool(algorithm.clip_norm)
        self.freezer = Freezer(self.weights, self._planned, stack.plans[0], clipped)
        decay = _common([one.weight_decay for one in own])
        self.optimizer = _optimizer(algorithm, self, decay, clipped)
        ages = _ages(self._planned, batches.sizes.shape, stack.plans[0].reset)
        forms = [
            (one.lr_within_round, one.warmup, steps)
            for one, steps in zip(own, batches.steps, strict=True)
        ]
        within = cache(lambda form: factors(*form))
        rates = self.optimizer.rates(ages, np.array(lrs) * _spread(map(within, forms), ages))
        self.plan = Plan(batches, stack.data.labels, *rates, few_shapes=graphs is not None)
        self._replayed: Replayed | None = None
        if graphs is not None:
            make = partial(Replayed, graphs, algorithm)
            self._replayed = graphs.kept(self._shape(algorithm, decay), make)
        of_id = {id(planned): planned for planned in self._planned}  # clients share them
        covered = cache(
            lambda form, lr, key: [
                self._normalized_steps(within(form)[first : first + phase.steps], lr)
                for first, phase in _begun(of_id[key])
            ]
        )
        self._covered: list[list[float]] = list(map(covered, forms, lrs, map(id, self._planned)))
        self.normalized_steps = [sum(own) for own in self._covered]

    def run(self, make: Callable[[Step], Tensor]) -> Tensor:
        """Make all steps of the round; return the losses `(T, K)`, 0 once a client has finished.

        `make` makes a step of the first k clients and returns their losses `(k,)`.
        """
        if self._replayed is not None:
            whole = self._replayed.begin(self.plan, self.freezer.timetable)
            self._settle(self._replayed, whole)
            return self._replayed.run(self.plan, self.enter, make)
        losses = torch.zeros(self.plan.sizes.shape, device=self.plan.device)
        for number, width in enumerate(self.plan.widths):
            self.enter(number)
            losses[number, :width] = make(self.plan.at(number))
        return losses

    def release(self, result: Trained) -> None:
        """Let go of what the next round overwrites, once all results are there."""
        if self._replayed is not None:
            self.stack.block.copy_(self.block)
            self._replayed.release(result.sends)
            self._replayed.release(result.client_state)

    def enter(self, number: int) -> None:
        """Begin a step: some clients enter another phase."""
        fresh = self.freezer.enter(number, self.weights)
        if fresh is not None:
            self.optimizer.reset(fresh.rows)

    def images_of(self, step: Step) -> Tensor:
        """Return the images of a step as its clients see them: augmented, then mixed."""
        images = self._augment(self.stack.data.images[step.rows], step.keys)
        return mixed_images(images, step) if self._mixup else images

    def gradients(
        self, step: Step, out: Tensor, keep: float = 0.0, loss: Loss | None = None
    ) -> Tensor:
        """Return the losses `(k,)` of a step; see `Network.gradients` for the rest.

        A missing loss is cross-entropy with label smoothing. With mixup it counts for both labels.
        """
        if loss is None and (self._smoothing is None or self._smoothing or self._mixup):
            own = self.own["smoothing"] if self._smoothing is None else self._smoothing
            loss = cross_entropy(own)
        if loss is not None and self._mixup:
            loss = mixed_loss(loss, step)
        block, network = self.block[: len(step.counts)], self.stack.network
        network.draws.keys = step.keys if network.draws.used else None
        return network.gradients(
            block, self.images, step.labels, step.sizes, out, keep, loss, step.counts
        )

    def client_state(self, name: str, default: Tensor | Sequence[Tensor]) -> Tensor:
        """Return what each client stored under a name, `(K, ...)`; `default` for new clients."""
        states = self.stack.client_states or [{} for _ in self.block]
        defaults = [default] * len(states) if isinstance(default, Tensor) else default
        return torch.stack([s.get(name, own) for s, own in zip(states, defaults, strict=True)])

    def public(self, vectors: Tensor) -> Tensor:
        """Return vectors `(…, P)` with 0 for private weights, of which there are no global ones."""
        return vectors * self.own["public"] if "public" in self.own else vectors

    def global_models(self) -> Tensor:
        """Return the global model as each client has it, with its private tensors, `(K, F)`.

        To be asked for before the first step.
        """
        assert self.stack.private is not None
        return torch.where(self.stack.private, self.block, self.start)

    def normalized_steps_of_weights(self) -> Tensor:
        """Return the `normalized_steps` of each weight, 0 while it was fixed.

        The shape is `(K, P)`, or `(K, 1)` where no weight was fixed.
        """
        total = torch.zeros(len(self.block), 1, device=self.block.device)
        if any(phase.trains is not None for own in self._planned for phase in own):
            total = total.repeat(1, self.weights.shape[1])
        for row, own, covered in zip(total, self._planned, self._covered, strict=True):
            for phase, steps in zip(own, covered, strict=True):
                row += steps if phase.trains is None else steps * phase.trains.to(row)
        return total

    def _shape(self, algorithm: Local, decay: Decay) -> Hashable:
        """Return all that tells one captured step from another, but for the number of clients."""
        images = self.stack.data.images
        numbers = self._smoothing, decay if isinstance(decay, float) else None
        of_data = images.data_ptr(), images.shape
        return id(algorithm), self.block.shape, *of_data, self.freezer.kind, *numbers

    def _settle(self, replayed: Replayed, whole: bool) -> None:
        """Move all that steps read or write to where captured steps find it, or a `whole` round."""
        replayed.settle("training", vars(self), ("block", "start"))
        self.weights = self.block[:, : self.weights.shape[1]]
        replayed.settle("optimizer", vars(self.optimizer), self.optimizer.state)
        names = self.freezer.state + (self.freezer.choices if whole else ())
        replayed.settle("freezer", vars(self.freezer), names)
        replayed.settle("own", self.own, tuple(self.own))

    def _normalized_steps(self, rates: np.ndarray, lr: float) -> float:
        """Return how far steps go under a gradient of 1; distance and rates in units of lr."""
        far, speed = 0.0, 0.0
        for rate in rates.tolist():
            speed = self._momentum * speed + 1 - self._pull * lr * far
            far += rate * speed
        return far


def _pairs(stack: Stack, batch_size: int, always: bool) -> bool:
    """Return whether batches of one must be avoided; if `always`, even where there are none.

    `ValueError` if that cannot be done.
    """
    counts = [len(own) for own in stack.rows]
    if not always and batch_size > 1 and all(count % batch_size != 1 for count in counts):
        return False
    layer = stack.network.traits.needs_two
    if layer and (batch_size == 1 or 1 in counts):
        short = "client.batch_size is 1" if batch_size == 1 else "a client has a single example"
        raise ValueError(
            f"{short}, but {layer} needs two in a batch: give client.batch_size and "
            "partition.min_size at least 2, or the model another norm"
        )
    return bool(layer)


def _graphs(network: Network) -> Graphs | None:
    """Return what captures steps; None: they run plainly."""
    graphs = network.graphs
    return None if graphs is None or graphs.off else graphs


def _common(values: Sequence[float]) -> float | np.ndarray:
    """Return the number that all clients have, or that of each, `(K, 1)`."""
    return float(values[0]) if len(set(values)) == 1 else np.array(values)[:, None]


def _optimizer(algorithm: Local, training: Training, decay: Decay, clipped: bool) -> Optimizer:
    """Return the update rule of an algorithm, for the weights as they are."""
    weights = training.weights
    if algorithm.optimizer == "sgd":
        raw = clipped or training.freezer.filters
        return SGD(weights, algorithm.momentum, decay, raw)
    return (Adam if algorithm.optimizer == "adam" else AdamW)(weights, decay)


def _spread(own: Iterable[np.ndarray], like: np.ndarray) -> np.ndarray:
    """Return a number of each client in each step, `(T, K)`; 1 where it has finished."""
    every = np.ones(like.shape)
    for column, numbers in zip(every.T, own, strict=True):
        column[: len(numbers)] = numbers
    return every


def _begun(planned: Sequence[Phase]) -> Iterable[tuple[int, Phase]]:
    """Return each phase and the step in which it begins."""
    return zip(accumulate((phase.steps for phase in planned), initial=0), planned, strict=False)


def _ages(planned: Sequence[Sequence[Phase]], shape: tuple[int, int], reset: bool) -> np.ndarray:
    """Return how many steps old the optimiser's state is in each step, from 1; `shape` `(T, K)`.

    A new phase starts it fresh if `reset`. Steps that a client does not make count on.
    """
    ages = np.repeat(np.arange(1, shape[0] + 1)[:, None], shape[1], axis=1)
    for own, rows in alike(planned) if reset else ():
        first = 0
        for phase in own:
            if 0 < first < shape[0]:
                ages[first:, rows] -= ages[first, rows] - 1
            first += phase.steps
    return ages
