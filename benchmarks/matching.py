"""Check whether matching finds the permutation of a permuted copy, and at what cost.

    python benchmarks/matching.py
    python benchmarks/matching.py --models mlp vit --seeds 0 1 2 3 4 --epochs 2
    python benchmarks/matching.py model.depth=6 --models mlp

States: `fresh` is a newly initialised model and its copy with the neurons of every layer in random
order; `trained` is the same after training on Fashion-MNIST; `apart` are two models trained from
different initial weights, for which only a best match exists.

Columns: found is how often the copy was restored to the bit; in place is the share of weights that
were restored; similarity is the cosine of the two models' parameters; barrier is the loss barrier
between the model and its copy on 1,000 test images (200 for VGG), before and after matching. Values
are medians over seeds; a seed determines the weights, the order of the training examples, the
permutation, and the order in which layers are matched. Times are CPU seconds of one thread.

Weight matching is a coordinate descent, so it does not always find the permutation. From
`identity`, the first groups are matched by weights whose other end is still in the wrong order;
this is noise compared with the few that are fixed, and it can end in a local optimum: in narrow
layers, and above all in attention heads, since exchanging heads pays only once their inside is in
order, and the other way round. From `layers`, each group is matched by weights that are in order
already, and heads by their content in any order; this finds every copy in one pass and confirms it
in a second. Activation matching cannot distinguish neurons that are silent on all images, such as 6
of the 64 in the CNN's `fc1` at its start; exchanging them does not change the function, but in the
middle of the line they may not be silent.

For comparison: the public code of Git Re-Basin starts from `identity` and stops after 100 passes;
its author reports 3 to 50 (github.com/samuela/git-re-basin/issues/5).
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import scipy
import torch
from torch import Tensor

from fedalign.algorithm import Stack
from fedalign.federation.federation import Federation
from fedalign.landscape.activations import activation_matching
from fedalign.landscape.barriers import loss_barrier
from fedalign.landscape.evaluator import Evaluator
from fedalign.landscape.matching import Matched, weight_matching
from fedalign.landscape.paths import Path, grid
from fedalign.masks.plan import MaskPlan
from fedalign.network.device import torch_threads
from fedalign.network.network import Network
from fedalign.network.permutations import shuffled
from fedalign.rng import rng
from fedalign.settings.config import read
from fedalign.settings.sources import parse_overrides

# VGG has 9.2 M parameters: as many steps, but half the batch size and fewer images.
LARGE = {"client.batch_size": 8, "data.max_examples": 1600, "evaluation.examples": 200}
MODELS: dict[str, dict[str, Any]] = {
    "mlp": {"model": "mlp"},
    "cnn": {"model": "cnn"},
    "lenet5": {"model": "lenet5"},
    "resnet20, none": {"model": "resnet20", "model.norm": "none"},
    "resnet20, batch": {"model": "resnet20", "model.norm": "batch"},
    "resnet20, group": {"model": "resnet20", "model.norm": "group"},
    "vgg": {"model": "vgg", **LARGE},
    "vit": {"model": "vit"},
}
COMMON: dict[str, Any] = {
    "data": "fashion-mnist",
    "data.max_examples": 3200,
    "client.batch_size": 16,
    "client.lr": 0.02,
    "evaluation.alphas": 5,
}
STATES = ("fresh", "trained", "apart")
METHODS = ("identity", "layers", "activations")
HEADINGS = (
    *("model", "state", "matched by", "found", "in place", "similarity"),
    *("passes", "assignments", "CPU seconds", "barrier before", "after"),
)


@dataclass(frozen=True)
class Outcome:
    """The result of one method for one pair of models."""

    found: bool
    in_place: float
    similarity: float
    passes: int
    assignments: int
    seconds: float
    before: float
    after: float


class Bench:
    """One model with one seed: it makes pairs of models and matches them."""

    def __init__(self, settings: dict[str, Any], seed: int):
        self.seed, self.federation = seed, Federation(read(None, settings | {"seed": seed}))
        self.network: Network = self.federation.network
        self.fresh = self.network.layout.to_vector(self.network.initial)
        evaluation = self.federation.config.evaluation
        train, test = self.federation.train, self.federation.test
        assert test is not None
        self._evaluator = Evaluator(self.network, test, train, evaluation)
        self._images = train.subset(evaluation.bn_examples).images

    def pair(self, state: str) -> tuple[Tensor, Tensor]:
        """Return the reference `(F,)` and the model `(F,)` to be matched to it."""
        if state == "apart":
            first, second = (self._trained(self.federation.own_start(i), i) for i in (0, 1))
            return first, second
        model = self.fresh if state == "fresh" else self._trained(self.fresh, 0)
        stream = rng(self.seed, "permutation")
        return model, shuffled(self.network.layout, self.network.symmetry, stream, model)

    def measure(self, reference: Tensor, model: Tensor) -> Iterator[Outcome]:
        """Yield the outcome of each method for a pair of models."""
        before = self._barrier(reference, model)
        for method in METHODS:
            began = time.process_time()
            matched = self._match(method, reference, model)
            seconds = time.process_time() - began
            after = model[matched.index]
            layout = self.network.layout
            same, count = layout.compact(after == reference), layout.parameter_size
            pair = reference[:count].double(), after[:count].double()
            alike = torch.cosine_similarity(*pair, dim=0)
            yield Outcome(
                *(bool(same.all()), float(same.float().mean()), float(alike)),
                *(matched.iterations, matched.assignments, seconds),
                *(before, self._barrier(reference, after)),
            )

    def _match(self, method: Any, reference: Tensor, model: Tensor) -> Matched:
        layout, groups = self.network.layout, self.network.symmetry
        if method == "activations":
            return activation_matching(self.network, groups, reference, model, self._images)
        stream = rng(self.seed, "match")
        return weight_matching(layout, groups, reference, model, stream, method)

    def _trained(self, start: Tensor, whose: int) -> Tensor:
        block, data = start.repeat(1, 1), self.federation.train
        streams = [rng(self.seed, "batches", whose)]
        rows = [torch.arange(len(data)).numpy()]
        stack = Stack(self.network, data, start, block, rows, streams, [MaskPlan()])
        self.federation.client_of(0).train(stack)
        return block[0]

    def _barrier(self, reference: Tensor, model: Tensor) -> float:
        path = Path("", "reference", "model", grid(self.federation.config.evaluation.alphas))
        models = {"reference": reference, "model": model}
        return loss_barrier(self._evaluator.curves(models, [path])[0])


def cells(outcomes: Sequence[Outcome]) -> list[str]:
    """Return a row of the table: medians over seeds."""

    def middle(name: str) -> float:
        return median(getattr(outcome, name) for outcome in outcomes)

    found = sum(outcome.found for outcome in outcomes)
    return [
        *(f"{found} of {len(outcomes)}", f"{middle('in_place'):.1%}"),
        *(f"{middle('similarity'):.4f}", f"{middle('passes'):.0f}"),
        *(f"{middle('assignments'):.0f}", f"{middle('seconds'):.2f}"),
        *(_exact(middle("before")), _exact(middle("after"))),
    ]


def _exact(barrier: float) -> str:
    """Return a barrier as text that distinguishes 0 from very small values."""
    return f"{barrier:.4f}" if barrier >= 5e-5 else f"{barrier:.0e}" if barrier else "0"


def report() -> None:
    """Measure all models and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--states", nargs="+", default=list(STATES), choices=STATES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=int, default=1, help="of 200 steps")
    parser.add_argument("settings", nargs="*", help="key=value")
    given = parser.parse_intermixed_args()
    more = {"client.epochs": given.epochs} | parse_overrides(given.settings)
    versions = f"torch {torch.__version__}, scipy {scipy.__version__}"
    print(f"{vars(given)}; Python {platform.python_version()}, {versions}; {os.cpu_count()} cores")
    print(f"\n| {' | '.join(HEADINGS)} |\n|{'---|' * len(HEADINGS)}")
    for name in given.models:
        benches = [Bench(COMMON | MODELS[name] | more, seed) for seed in given.seeds]
        for state in given.states:
            by_seed = [list(bench.measure(*bench.pair(state))) for bench in benches]
            for method, outcomes in zip(METHODS, zip(*by_seed, strict=True), strict=True):
                print(f"| {' | '.join([name, state, method, *cells(outcomes)])} |", flush=True)


if __name__ == "__main__":
    with torch_threads(1):
        report()
