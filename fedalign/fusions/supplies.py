"""What the server of a federation has for a fusion: images for statistics, examples to choose by.

Neither is ever of the test set.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from fedalign.federation.federation import Federation
from fedalign.fusions.recipe import Supplies
from fedalign.network.network import Network
from fedalign.rng import rng

CURE = (
    ", on which no client trains: give evaluation.server_share, such as 0.1, or evaluation.holdout "
    "and a partition in which clients share no examples, on a server that has the data"
)
"""How a run gets examples to choose by."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Which training examples are held out.

    Attributes:
        rows: their numbers in the training set, ascending.
        apart: no client of the run trained on any of them.
    """

    rows: np.ndarray
    apart: bool


def held_out(federation: Federation, share: float, of_run: bool = True) -> HeldOut:
    """Return the training examples to choose by.

    These are those that the server keeps (`evaluation.server_share`), or else those that clients
    hold out and no client trains on (`evaluation.holdout`); where there are none, or the models
    are not of this run, a random share of the training set.
    """
    config, count = federation.config, 0 if federation.reference is None else len(federation.train)
    if count and of_run and len(kept := federation.of_server):
        return HeldOut(kept, apart=True)
    if count and config.evaluation.holdout and of_run:
        owned = np.concatenate(federation.holdouts(config.num_clients))
        rows = np.setdiff1d(owned, np.concatenate(federation.shards(config.num_clients)))
        if len(rows):
            return HeldOut(rows, apart=True)
    stream = rng(config.seed, "held out of the training set")
    return HeldOut(np.sort(stream.permutation(count)[: round(share * count)]), apart=False)


def supplies_of(federation: Federation, network: Network, rows: np.ndarray) -> Supplies:
    """Return what the server of a federation has; `rows` of its training set are held out."""
    settings, train = federation.config.evaluation, federation.reference
    images, chosen = torch.empty(0, dtype=torch.uint8), None
    if train is not None:
        others = np.setdiff1d(np.arange(len(train)), rows)
        images = train.at(others).subset(settings.bn_examples).images
        chosen = train.at(rows) if len(rows) else None
    return Supplies(network, federation.config.seed, images, chosen, settings.statistics_batch)
