"""Score a body by examples that nobody trained on: probes of one half, tested on the other."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fedalign.data import Dataset
from fedalign.landscape.barriers import Point
from fedalign.network.network import Network
from fedalign.rng import rng
from fedalign.transfer.probe import LEAST, Labelled, probed


def halves_of(data: Dataset) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return, for each task of a data set, the rows to probe with and those to test on.

    The tasks are those of its label sets; without any there is one.
    """
    sets = torch.tensor(data.label_sets or [0] * data.classes)
    tasks = sets[data.labels.cpu()].numpy()
    found = [np.flatnonzero(tasks == task) for task in range(int(sets.max()) + 1)]
    shuffled = [rows[rng(0, "halves", len(rows)).permutation(len(rows))] for rows in found]
    return [(rows[: len(rows) // 2], rows[len(rows) // 2 :]) for rows in shuffled]


def can_score(data: Dataset) -> bool:
    """Return whether there are examples enough of each task."""
    return all(len(train) >= LEAST for train, _ in halves_of(data))


def score(network: Network, model: Tensor, data: Dataset, batch: int) -> Point:
    """Return loss and accuracy of probes of a model `(F,)`, means over the tasks of `data`.

    The head of the model makes no difference.
    """
    (features,) = network.features(model[None].to(network.device), data.images[None], batch)
    every = Labelled(features.double().cpu(), data.labels.cpu())
    points = [_point(every, *rows) for rows in halves_of(data)]
    loss, accuracy = np.mean(points, axis=0).tolist()
    return loss, accuracy


def _point(every: Labelled, train: np.ndarray, test: np.ndarray) -> Point:
    rows = np.concatenate([train, test])
    classes, labels = torch.unique(every.labels[rows], return_inverse=True)
    own = Labelled(every.features[rows], labels)
    halves = np.split(np.arange(len(rows)), [len(train)])
    return probed(own.at(halves[0]), own.at(halves[1]), len(classes))
