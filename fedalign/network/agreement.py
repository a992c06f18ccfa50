"""Whether a second way of running a network computes what its plain module does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from fedalign.errors import is_device_error
from fedalign.network.inputs import Inputs
from fedalign.network.layer_trace import first_layer
from fedalign.network.layout import Layout
from fedalign.network.losses import Loss, losses_of
from fedalign.network.mixtures import Mixtures
from fedalign.network.one_by_one import OneByOne
from fedalign.network.random_layers import Draws
from fedalign.network.runner import Runner
from fedalign.network.vmapped import Vmapped

BATCHES = ([4, 3], [2, 5, 4], [9])  # examples of each model; the smaller batches are filled up
SHARES = [[1.0, 0, 0], [0.2, 0.3, 0.5], [0, -0.5, 1.5], [0.5, 0.5, 0]]
SPREAD = 0.02  # how far models lie from the initial one, in each parameter
ROUNDING, TF32 = 1e-6, 3e-4  # relative, of sums on a CPU and on a GPU
FACTOR = 30.0  # so many times the effect of rounding is a difference
EXACT, KINKS = 1e-4, 0.05  # relative; where rounding passes a ReLU's kink, gradients jump

Outcome = dict[str, Tensor]
"""What was computed, by what it is."""


class Trial:
    """Tries ways of running a network on random models around its initial one.

    Args:
        plain: the way that is right.
        layout: the network's.
        start: the initial model `(F,)`.
        inputs: makes inputs of random examples.
        draws: what the random layers draw by, in both ways.
        features: training is compared with a loss of the features too.
    """

    def __init__(
        self,
        plain: OneByOne,
        layout: Layout,
        start: Tensor,
        inputs: Inputs,
        draws: Draws,
        features: bool = False,
    ):
        self._loss = _loss_of_features if features else None
        self._plain, self._layout, self._start = plain, layout, start
        self._inputs, self._draws, self._device = inputs, draws, inputs.device
        self._generator = torch.Generator().manual_seed(0)

    def of_training(self, other: Runner) -> str:
        """Return what differs where `other` trains several models; nothing if all is the same.

        It may differ, or fail, where the module uses a layer's weights without calling the layer,
        or mixes the examples of a batch.
        """
        keys = self._draws.keys
        try:
            return next(filter(None, (self._of_step(other, sizes) for sizes in BATCHES)), "")
        finally:
            self._draws.keys = keys  # of the step that asks for another way

    def _of_step(self, other: Runner, sizes: Sequence[int]) -> str:
        models = self._models(len(sizes))
        levels = _levels(sizes)
        examples = self._inputs.random(len(levels), self._generator, levels)
        self._draws.keys = self._integers(-(2**31), 2**31, len(sizes), 2).int()
        run = _training(self._layout, examples, self._labels(sizes), sizes, self._loss)
        expected, rounded = run(self._plain, models), run(self._plain, self._rounded(models))
        if changed := _difference(lambda: run(self._plain, models), expected, expected):
            return f"two plain runs on the same input are not the same: {changed}"
        differs = _difference(lambda: run(other, models), expected, rounded)
        twin = getattr(other, "twin", None)
        named = differs.startswith(("the gradient", "the buffer"))
        if not differs or named or twin is None or isinstance(twin, Vmapped):
            return differs
        plain, again = partial(run, self._plain, models), partial(run, other, models)
        return differs + first_layer(self._plain.module, plain, twin, again, sizes)

    def of_mixtures(self, mixtures: Mixtures) -> str:
        """Return what differs where `mixtures` evaluates; nothing if all is the same."""
        every = torch.tensor(SHARES, device=self._device)
        for batch, shares in ((5, every), (3, None), (1, every[1:2]), (12, every[:2])):
            models, examples = self._models(3), self._inputs.random(batch, self._generator)
            vectors = models if shares is None else shares @ models
            mixtures.load(models, shares)
            alone = self._logits(vectors, examples), self._logits(self._rounded(vectors), examples)
            run = partial(_mixed, mixtures, examples)
            plain = partial(self._logits, vectors, examples)
            if found := _difference(run, *alone):
                sizes = [batch] * len(vectors)
                return found + first_layer(self._plain.module, plain, mixtures.twin, run, sizes)
        return ""

    def _models(self, count: int) -> Tensor:
        """Return random models `(count, F)`."""
        models = self._start.repeat(count, 1)
        for entry in self._layout.parameters:
            own = entry.view(models)
            own += SPREAD * torch.randn(own.shape, generator=self._generator)
        for entry in self._layout.buffers:  # a variance stays positive
            own = entry.view(models)
            own += SPREAD * torch.rand(own.shape, generator=self._generator)
        return models.to(self._device)

    def of_exchange(self, exchange: Callable[[Tensor], Tensor]) -> float:
        """Return how much a change of a model changes its outputs, as a multiple of rounding.

        Below 1 it cannot be told from rounding. The model is far from the initial one in every
        tensor, so that no two neurons are alike.
        """
        model = self._models(1)
        for entry in self._layout.entries:
            own = entry.view(model)
            own += max(0.5 * float(own.std(correction=0)), 0.1) * torch.rand(
                own.shape, generator=self._generator
            ).to(own)
        examples = self._inputs.random(5, self._generator)
        expected = self._logits(model, examples)["logits"]
        rounded = self._logits(self._rounded(model), examples)["logits"]
        found = self._logits(exchange(model[0])[None], examples)["logits"]
        allowed = EXACT * expected.norm() + FACTOR * (rounded - expected).norm()
        return float((found - expected).norm() / allowed)

    def _rounded(self, models: Tensor) -> Tensor:
        """Return models that differ by what rounding may do to a number."""
        size = ROUNDING if self._device.type == "cpu" else TF32
        noise = torch.randn(models.shape, generator=self._generator).to(self._device)
        return models * (1 + size * noise)

    def _labels(self, sizes: Sequence[int]) -> Tensor:
        places = torch.arange(max(sizes), device=self._device)
        counted = places < torch.tensor(sizes, device=self._device)[:, None]
        return counted.long() - 1

    def _integers(self, low: int, high: int, *shape: int) -> Tensor:
        return torch.randint(low, high, shape, generator=self._generator).to(self._device)

    @torch.no_grad()
    def _logits(self, vectors: Tensor, examples: Tensor) -> Outcome:
        self._plain.module.eval()
        found = []
        for vector in vectors:
            self._plain.bind(vector)
            found.append(self._plain.run(examples))
        return {"logits": torch.stack(found)}


def _levels(sizes: Sequence[int]) -> Tensor:
    """Return how bright examples are: from model to model less, what fills up a batch the reverse.

    So it shows whether something depends on other examples, such as the sign of a batch's mean.
    """
    of_models = torch.linspace(1, 0.1, len(sizes))[:, None]
    counted = torch.arange(max(sizes)) < torch.tensor(sizes)[:, None]
    return torch.where(counted, of_models, 1.1 - of_models).flatten()


def _mixed(mixtures: Mixtures, examples: Tensor) -> Outcome:
    return {"logits": mixtures.logits(examples)}


def _loss_of_features(logits: Tensor, labels: Tensor, features: Tensor, _: slice) -> Tensor:
    """Return losses on which features have a large effect; a network may have none."""
    losses = losses_of(logits, labels)
    if not features.numel():
        return losses
    return losses + torch.where(labels >= 0, features.flatten(2).square().mean(2), 0)


def _training(
    layout: Layout,
    examples: Tensor,
    labels: Tensor,
    sizes: Sequence[int],
    loss: Loss | None = None,
) -> Callable[[Runner, Tensor], Outcome]:
    """Return a function that trains models `(K, F)` in some way for one step."""

    def run(runner: Runner, models: Tensor) -> Outcome:
        block, out = models.clone(), torch.full_like(models, torch.nan)  # all must be overwritten
        outcome = {"losses": runner.gradients(block, examples, labels, sizes, out, 0.0, loss)}
        outcome |= {f"gradient of {e.name!r}": e.view(out) for e in layout.parameters}
        return outcome | {f"buffer {e.name!r}": e.view(block) for e in layout.buffers}

    return run


def _difference(run: Callable[[], Outcome], expected: Outcome, rounded: Outcome) -> str:
    """Return what differs between the outcome of `run` and the one that is expected.

    Args:
        run: computes an outcome; it may fail.
        expected: the right outcome.
        rounded: the right outcome for slightly different numbers, so that a network that magnifies
            them may differ more.
    """
    try:
        found = run()
    except Exception as error:  # the module's own code saw what it does not expect
        if isinstance(error, torch.OutOfMemoryError) or is_device_error(error):
            raise
        return f"it fails with {type(error).__name__}: {str(error).partition(chr(10))[0]}"
    whole = torch.stack([value.norm() for value in expected.values()]).max()
    for name, theirs in expected.items():
        if found[name].shape != theirs.shape:
            return f"the {name} are {tuple(found[name].shape)}, not {tuple(theirs.shape)}"
        share = KINKS if name.startswith("gradient") else EXACT
        allowed = share * theirs.norm() + FACTOR * (rounded[name] - theirs).norm()
        if not (found[name] - theirs).norm() <= allowed + 1e-7 * whole:
            return f"the {name} {'differ' if name.endswith('s') else 'differs'}"
    return ""
