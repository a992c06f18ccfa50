"""Which operations of a run have no deterministic form on its device."""

from __future__ import annotations

import re
import warnings

import numpy as np
from torch import Tensor

from fedalign.algorithm import Stack
from fedalign.federation.federation import Federation
from fedalign.masks.plan import MaskPlan
from fedalign.network.device import NOT_DETERMINISTIC, WORKSPACE
from fedalign.rng import rng


def not_reproducible(federation: Federation) -> list[str]:
    """Return the operations without a deterministic form, found by training and evaluating once.

    PyTorch names them in warnings while it uses deterministic algorithms. The result is empty if
    the run does not ask for those, or the server has no examples to try.
    """
    data = federation.reference
    if data is None or not federation.config.deterministic:
        return []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            federation.network.evaluate(_trained(federation), data.subset(2))
        except Exception as error:  # an algorithm may need what only a strategy sends
            return [f"what is not known, since a trial failed ({type(error).__name__}: {error})"]
    found = (re.match(NOT_DETERMINISTIC, str(warning.message)) for warning in caught)
    return sorted({match[1] or f"cuBLAS (see {WORKSPACE})" for match in found if match})


def _trained(federation: Federation) -> Tensor:
    """Return one of two models `(F,)` after an epoch on a few examples."""
    network, data = federation.network, federation.train
    start = network.receive(network.initial)
    rows = [np.arange(min(4, len(data)))] * 2
    plans, streams = [MaskPlan()] * 2, [rng(0), rng(0)]
    stack = Stack(network, data, start, start.repeat(2, 1), rows, streams, plans)
    federation.client.train(stack)
    return stack.block[0]
