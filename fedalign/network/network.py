"""The one place that runs a network forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import copy
from functools import cached_property, partial
from typing import Any

import torch
from flwr.app import ArrayRecord
from torch import Tensor, nn

from fedalign.data import Dataset, Spec
from fedalign.models.symmetry import Group
from fedalign.network.agreement import Trial
from fedalign.network.batch_norm import NORMS, batch_sizes, reestimate
from fedalign.network.constants import copied
from fedalign.network.device import gpu_memory, send
from fedalign.network.evaluation import CPU_BATCH, batch_on_gpu, evaluate
from fedalign.network.exchanges import Exchangeable, exchangeable
from fedalign.network.footprint import Footprint, footprint
from fedalign.network.graphs import Graphs
from fedalign.network.inputs import Inputs
from fedalign.network.layout import Layout
from fedalign.network.losses import Loss, tasks_of
from fedalign.network.mixtures import Mixtures
from fedalign.network.one_by_one import OneByOne
from fedalign.network.random_layers import Draws, count_draws
from fedalign.network.receiver import Receiver
from fedalign.network.runner import Runner
from fedalign.network.stacked import Stacked
from fedalign.network.stacking import Mixing, Stacking, alone, mixing, stacking
from fedalign.network.state import State
from fedalign.network.traits import Traits
from fedalign.seeding import seeded

Hook = Callable[[Tensor], Tensor | None]
"""Takes what a module puts out and returns what replaces it; None leaves it."""


class Network:
    """A module whose weights come from outside, as rows of stacked flat vectors.

    Args:
        module: the network; its own weights are kept as `initial` and never used again.
        spec: says what examples are, and which task each class is of; a data set does too.
        device: where forward and backward run.
        precision: `bf16` runs them under autocast; weights and updates stay float32.
        uses_features: losses depend on them too, see `fedalign.network.losses.Loss`.

    Attributes:
        layout: which tensor of a model lies where in its vector `(F,)`.
        initial: the module's own weights.
        device: as given.
        draws: the keys that random layers draw by; a training step sets them.
        tasks: which classes compete for an example.
    """

    def __init__(
        self,
        module: nn.Module,
        spec: Spec | Dataset,
        device: torch.device,
        precision: str = "float32",
        uses_features: bool = False,
    ):
        self.layout = Layout.of(module)
        self.initial = self.layout.initial_record(module)
        self.device, self._bf16, self._features = device, precision == "bf16", uses_features
        self._inputs, self.tasks = Inputs(spec, device), tasks_of(spec.label_sets, device)
        self.draws, self._memory = count_draws(module), gpu_memory(device)
        self._plain = OneByOne(module.to(device), self.layout, self._bf16, self.draws)
        self._state, self._receiver = State(module), Receiver(self.layout, device)

    @property
    def module(self) -> nn.Module:
        """The module; its weights are those of the model that ran last."""
        return self._plain.module

    def receive(self, arrays: ArrayRecord) -> Tensor:
        """Return the model `(F,)` in a message, decoded once for two rounds; not to be changed."""
        return self._receiver.receive(arrays)

    def vector_of(self, arrays: ArrayRecord) -> Tensor:
        """Return the model `(F,)` of a record, on the device; not to be changed."""
        return self._receiver.vector_of(arrays)

    def twin(self) -> Network:
        """Return a copy of the network for another thread."""
        other = copy(self)
        for name in ("stacking", "mixing", "mixes", "graphs"):
            if getattr(other.__dict__.get(name), "runner", self):  # why there is none still holds
                other.__dict__.pop(name, None)
        self.restart()
        other.draws = Draws()
        module = copied(self.module, {id(self.draws): other.draws})
        other._plain = OneByOne(module, self.layout, self._bf16, other.draws)
        other._state, other._receiver = State(module), Receiver(self.layout, self.device)
        return other

    def restart(self) -> None:
        """Forget what training has left in the module beside the weights, for another client."""
        self._state.restore()

    @contextmanager
    def _measuring(self) -> Iterator[None]:
        """Run the body as every evaluation: from one state, and with the same random numbers."""
        draws = seeded(0, "evaluation") if self.traits.depends[False] else nullcontext()
        with self._state.aside(), draws:
            yield

    @cached_property
    def graphs(self) -> Graphs | None:
        """What captures work on this network; None where nothing can be captured."""
        return Graphs() if self.device.type == "cuda" and self.stacked else None

    @cached_property
    def exchangeable(self) -> Exchangeable:
        """The groups of neurons that may be exchanged; and why, where none are known."""
        trial = None if self.traits.depends[False] else self._trial
        return exchangeable(self.module, self.layout, trial)

    @property
    def symmetry(self) -> tuple[Group, ...]:
        """The groups of neurons that may be exchanged."""
        return self.exchangeable.groups

    @cached_property
    def traits(self) -> Traits:
        """What is known of the module."""
        return Traits(copied(self.module, {id(self.draws): Draws()}), self._inputs)

    @cached_property
    def stacking(self) -> Stacking:
        """How many models run at once, and why not otherwise."""
        if why := self.traits.depends[True] or self.traits.reads[True]:
            return alone(why)
        return stacking(self.module, self.layout, self.draws, self._trial, self.device, self._bf16)

    @property
    def stacked(self) -> Stacked | None:
        """What runs many models at once; None if nothing does, see `stacking`."""
        return self.stacking.runner

    @cached_property
    def mixing(self) -> Mixing:
        """How mixtures of models are evaluated, and why not at once."""
        if why := self.traits.depends[False] or self.traits.reads[False]:
            return Mixing(None, why)
        return mixing(self.module, self.layout, self._trial, self.device, self._bf16)

    @cached_property
    def mixes(self) -> Mixtures | None:
        """What runs many mixtures at once; None where nothing does, or gains nothing."""
        return self.mixing.runner

    @property
    def _trial(self) -> Trial:
        """What compares other ways of running the network with the plain one."""
        plain = OneByOne(copied(self.module), self.layout, draws=self.draws)
        start = self.layout.to_vector(self.initial)
        return Trial(plain, self.layout, start, self._inputs, self.draws, self._features)

    @cached_property
    def footprint(self) -> Footprint:
        """What one example costs in a forward pass."""
        weights, twin = self.receive(self.initial), self.twin()
        return footprint(twin.function_of(weights), weights, twin.module, self._inputs.blank(2))

    def gradients(
        self,
        block: Tensor,
        images: Tensor,
        labels: Tensor,
        sizes: Sequence[int],
        out: Tensor,
        keep: float = 0.0,
        loss: Loss | None = None,
        counts: Tensor | None = None,
    ) -> Tensor:
        """Return what `Runner.gradients` does, of images `(K, B, C, H, W)` or text `(K, B, L)`."""
        alone = len(block) == 1 and self.graphs is None
        runner: Runner = (None if alone else self.stacked) or self._plain
        inputs, loss = self._inputs(images.flatten(0, 1)), self.tasks.loss(loss)
        return runner.gradients(block, inputs, labels, sizes, out, keep, loss, counts)

    def features(
        self, block: Tensor, images: Tensor, batch_size: int | None = None, threads: int = 1
    ) -> Tensor:
        """Return the input `(K, B, D)` of each model's last linear layer; in evaluation mode."""
        found, shared = [], 1 if self.traits.depends[False] else threads
        for vector, own in zip(block, images, strict=True):
            run, parts = self.function_of(vector), own.split(batch_size or len(own))
            with self._measuring():
                found.append(self._plain.recorder.of(run, parts, shared))
        return torch.stack(found)

    def watch(self, vector: Tensor, images: Tensor, modules: Iterable[str]) -> dict[str, Tensor]:
        """Return the output of each of these modules of the model `(F,)`, in evaluation mode."""
        seen: dict[str, Tensor] = {}

        def see(name: str, out: Tensor) -> None:
            seen[name] = out.float()

        self.tap(vector, images, {name: partial(see, name) for name in modules})
        return seen

    @torch.no_grad()
    def tap(self, vector: Tensor, images: Tensor, taps: Mapping[str, Hook]) -> None:
        """Run the model as `watch`; each hook sees, and may replace, the output of a module."""
        handles = [
            self.module.get_submodule(name).register_forward_hook(
                lambda _module, _inputs, out, tap=tap: tap(out)
            )
            for name, tap in taps.items()
        ]
        try:
            with self._measuring():
                self.function_of(vector)(images.to(self.device))
        finally:
            for handle in handles:
                handle.remove()

    def function_of(self, vector: Tensor) -> Callable[[Tensor], Tensor]:
        """Return the model `(F,)` as a function from images to logits."""
        self._plain.bind(vector.to(self.device))
        self.module.eval()
        return lambda images: self._plain.run(self._inputs(images))

    def modules(self, *kinds: type[nn.Module]) -> dict[str, Any]:
        """Return the modules of these kinds, by name."""
        return {name: m for name, m in self.module.named_modules() if isinstance(m, kinds)}

    def evaluate(
        self, vector: Tensor, data: Dataset, batch_size: int | None = None, threads: int = 1
    ) -> tuple[float, float]:
        """Return the mean cross-entropy and the accuracy of the model `(F,)` on all of `data`.

        Threads share the batches, which changes no bit. The device decides on a missing batch size.
        """
        loss, accuracy = self.scores(vector, data, batch_size, threads)[0].tolist()
        return loss, accuracy

    def scores(
        self, vector: Tensor, data: Dataset, batch_size: int | None = None, threads: int = 1
    ) -> Tensor:
        """Return what `evaluate` does, `(1, 2)` float64 on the device."""
        if self.graphs and self.modules(nn.Conv2d) and self.mixes:  # by the kernels of stacks
            return self.evaluate_mixes(vector[None], None, data, batch_size, threads)
        size, run = batch_size or self._batch(1), self.function_of(vector)
        shared = 1 if self.traits.depends[False] else threads
        with self._measuring():
            return evaluate(lambda x: run(x)[None], data, size, self.device, shared)

    def evaluate_mixes(
        self,
        models: Tensor,
        shares: Tensor | None,
        data: Dataset,
        batch_size: int | None = None,
        threads: int = 1,
    ) -> Tensor:
        """Return the `scores` `(K, 2)` of K mixtures at once; only where there are `mixes`.

        `shares` `(K, M)` has the weight of each of the `models` `(M, F)` in each mixture; None:
        the models themselves. Each gets what it would get alone, to within rounding.
        """
        mixes = self.mixes
        assert mixes is not None
        size = batch_size or self._batch(len(models if shares is None else shares))
        mixes.load(models.to(self.device), None if shares is None else shares.to(self.device))
        return evaluate(lambda x: mixes.logits(self._inputs(x)), data, size, self.device, threads)

    def upload(self, vector: Tensor) -> Tensor:
        """Return a vector on the device, without waiting for the copy."""
        return send(vector, self.device)

    def _batch(self, models: int) -> int:
        """Return how many examples to run at once through so many models, without gradients."""
        if self._memory is None:
            return CPU_BATCH
        return batch_on_gpu(self._memory[1], models * self.footprint.activations)

    def recalibrate(self, vector: Tensor, images: Tensor, batch_size: int) -> Tensor:
        """Return the model `(F,)` with BatchNorm statistics re-estimated on `images`.

        They are not the average of the statistics of averaged models (Jordan et al. 2023, REPAIR).
        Each layer gets the mean over batches. Without BatchNorm, or images, nothing changes.
        """
        if not self.modules(*NORMS) or not len(images):
            return vector
        vector = vector.to(self.device, copy=True)
        self._plain.bind(vector)
        sizes = batch_sizes(len(images), batch_size, bool(self.traits.needs_two))
        batches = (self._inputs(own.to(self.device)) for own in torch.split(images, sizes))
        with self._measuring():
            reestimate(self.module, batches)
        return vector
