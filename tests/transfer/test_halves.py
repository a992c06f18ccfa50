"""Bodies scored by held-out examples, and contributors chosen by that score."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fedalign.data import Dataset
from fedalign.errors import InputError
from fedalign.federation.federation import Federation
from fedalign.fusions.choosing import Best, Greedy
from fedalign.fusions.recipe import Ingredients, Supplies
from fedalign.network.device import torch_threads
from fedalign.network.network import Network
from fedalign.server.strategies import strategy_of
from fedalign.settings.config import Config
from fedalign.settings.layers import validate
from fedalign.transfer.halves import halves_of, score
from fedalign.transfer.probe import Labelled, probed

pytestmark = pytest.mark.xdist_group("probe")  # PyTorch's first optimiser takes a second


@pytest.fixture(autouse=True)
def _one_thread():
    with torch_threads(1):
        yield


def two_tasks(count=80):
    """Rows of two features; the first tells the classes of task 0, the second those of task 1."""
    stream = np.random.default_rng(0)
    labels = np.arange(count) % 4  # classes 0, 1 are of task 0; 2, 3 of task 1
    rows = stream.normal(size=(count, 2)).astype(np.float32)
    rows[labels < 2, 0] = 3 * labels[labels < 2] - 1.5 + 0.5 * rows[labels < 2, 0]
    rows[labels >= 2, 1] = 3 * labels[labels >= 2] - 7.5 + 0.5 * rows[labels >= 2, 1]
    tensors = torch.from_numpy(rows), torch.from_numpy(labels)
    return Dataset(*tensors, 4, (0.0,) * 2, (1.0,) * 2, "made up", label_sets=(0, 0, 1, 1))


def bodies():
    """A network of two linear layers, and models whose body passes on one feature, or both."""
    data = two_tasks()
    network = Network(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 4)), data, torch.device("cpu"))
    stream = torch.Generator().manual_seed(0)

    def model(*diagonal):
        vector = torch.randn(network.layout.num_parameters, generator=stream)  # heads are noise
        vector[:6] = torch.tensor([diagonal[0], 0, 0, diagonal[1], 0, 0])
        return network.layout.spread(vector)

    return network, data, [model(1.0, 0.0), model(0.0, 0.0), model(0.0, 1.0)]


def test_halves_are_of_one_task_each_and_share_nothing():
    data = two_tasks()
    found = halves_of(data)
    assert [sorted(set((data.labels[rows] // 2).tolist())) for half in found for rows in half] == [
        [0], [0], [1], [1],
    ]  # fmt: skip
    rows = np.concatenate([rows for half in found for rows in half])
    assert sorted(rows) == list(range(80))
    assert len(halves_of(replace(data, label_sets=()))) == 1


def test_a_body_is_scored_by_the_mean_over_tasks_whatever_its_head():
    network, data, (first, none, _) = bodies()
    loss, accuracy = score(network, first, data, 100)
    points = []
    for task, (train, test) in enumerate(halves_of(data)):
        features = torch.stack([data.images[:, 0], torch.zeros(80)], 1).double()
        every = Labelled(features, data.labels - 2 * task)
        points.append(probed(every.at(train), every.at(test), 2))
    assert (loss, accuracy) == pytest.approx(np.mean(points, axis=0), abs=1e-6)
    assert points[0][1] > 0.9 > 0.8 > points[1][1]
    assert score(network, none, data, 100)[1] < 0.7


def test_greedy_chooses_bodies_whose_heads_know_nothing():
    """The first body serves task 0, the third task 1; their mean serves both, and the second none.

    The heads are noise, so the models' own predictions would choose by chance.
    """
    network, data, models = bodies()
    of = Ingredients(Supplies(network, 0, data.images, data, 100), torch.stack(models))
    fused = Greedy(metric="probe_accuracy").fuse(of)
    assert (fused.shares[0] > 0, fused.shares[2] > 0) == (True, True)
    both = network.layout.compact(fused.model)[:4]
    assert (both[0] > 0, both[3] > 0) == (True, True)
    tried = fused.facts["tried"]
    assert tried[1]["joins"]
    assert tried[1]["probe_accuracy"] > 0.9 > tried[0]["probe_accuracy"]
    assert Best(metric="probe_loss").fuse(of).facts["chosen"] in {"0", "2"}


@pytest.mark.parametrize(
    ("tree", "says"),
    [
        ({"data": {"name": "digits", "max_examples": 150}, "evaluation": {"holdout": 0.1},
          "num_clients": 2},
         "needs a last linear layer, and 20 held-out examples of each task: give a larger"),
        ({}, "'greedy' needs held-out examples, on which no client trains"),
    ],
)  # fmt: skip
def test_what_cannot_be_scored_is_refused(tree, says):
    fusion = {"name": "greedy", "metric": "probe_accuracy"}
    tree |= {"strategy": {"name": "fused", "fusion": fusion}, "model": {"name": "mlp", "width": 4}}
    with pytest.raises(InputError, match=says):
        strategy_of(Federation(validate(Config, tree)))
