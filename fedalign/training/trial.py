"""A short trial of a run on its GPU: what cannot be reproduced, and what cannot be captured."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from fedalign.algorithm import Stack
from fedalign.data import Dataset
from fedalign.federation.federation import Federation
from fedalign.masks.plan import MaskPlan
from fedalign.network.convolution import ways_of
from fedalign.network.device import NOT_DETERMINISTIC, WORKSPACE
from fedalign.network.network import Network
from fedalign.rng import rng
from fedalign.settings.client_contracts import ClientAlgorithm


@dataclass(frozen=True)
class Findings:
    """What a trial has shown.

    Attributes:
        not_reproducible: operations without a deterministic form; none if the run does not ask
            for deterministic algorithms.
        not_captured: why steps run without a CUDA graph.
        convolutions: how each layer convolves in stacked models, see `way_of`.
    """

    not_reproducible: list[str]
    not_captured: list[str]
    convolutions: dict[str, str] = field(default_factory=dict)


def trial(federation: Federation) -> Findings:
    """Return what training two clients on a few examples, and evaluating one of them, shows.

    PyTorch warns of operations without a deterministic form while it uses deterministic algorithms.
    Nothing is found where the server has no examples to try.
    """
    data, network = federation.reference, federation.network.twin()
    if data is None:
        return Findings([], [])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            for algorithm in _forms(federation.algorithms.different):
                network.evaluate(_trained(algorithm, network, federation.train), data.subset(2))
        except Exception as error:  # an algorithm may need what only a strategy sends
            why = f"what is not known, since a trial failed ({type(error).__name__}: {error})"
            return Findings([why], [])
    found = (re.match(NOT_DETERMINISTIC, str(warning.message)) for warning in caught)
    missing = {match[1] or f"cuBLAS (see {WORKSPACE})" for match in found if match}
    line = network.stacking.line
    ways = {} if line else ways_of(network.module)
    refused = network.graphs.refused if network.graphs else [line] if line else []
    return Findings(sorted(missing), refused, ways)


def _forms(algorithms: Iterable[ClientAlgorithm]) -> Iterable[ClientAlgorithm]:
    """Return one algorithm of each form; those that differ in numbers above 0 compute alike."""

    def form(algorithm: ClientAlgorithm) -> str:
        options = getattr(algorithm, "__dict__", {})
        return repr({k: v > 0 if type(v) in (int, float) else v for k, v in options.items()})

    return {form(algorithm): algorithm for algorithm in algorithms}.values()


def _trained(algorithm: ClientAlgorithm, network: Network, data: Dataset) -> Tensor:
    """Return one of two models `(F,)` after an epoch on a few examples."""
    start = network.receive(network.initial)
    rows = [np.arange(min(4, len(data)))] * 2
    plans, streams = [MaskPlan()] * 2, [rng(0), rng(0)]
    stack = Stack(network, data, start, start.repeat(2, 1), rows, streams, plans)
    algorithm.train(stack)
    return stack.block[0]
