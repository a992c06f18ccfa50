"""Label sets: of a head with rows for several tasks, an example sees those of its own task."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from clients.calibrated import BalancedSoftmax
from clients.fedsam import FedSAM
from clients.local import Local
from clients.moon import MOON
from fedalign.algorithm import Stack
from fedalign.data import Dataset
from fedalign.fusions.ensemble import measured
from fedalign.masks.plan import MaskPlan
from fedalign.network.fisher import diagonal_fisher
from fedalign.network.losses import losses_of, tasks_of
from fedalign.network.network import Network
from fedalign.rng import rng

TASKS = (1, 0, 0, 1, 1)  # of five classes
CPU = torch.device("cpu")


class Bag(nn.Module):
    """The mean embedding of tokens, and a linear layer."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(12, 6)
        self.fc = nn.Linear(6, 5)

    def forward(self, tokens):
        return self.fc(torch.tanh(self.embedding(tokens).mean(1)))


@pytest.fixture
def data():
    draw = torch.Generator().manual_seed(3)
    tokens = torch.randint(0, 12, (20, 4), generator=draw, dtype=torch.int32)
    more = {"vocabulary": 12, "label_sets": TASKS}
    return Dataset(tokens, torch.arange(20) % 5, 5, (), (), "made up", **more)


@pytest.fixture
def network(data):
    torch.manual_seed(0)
    return Network(Bag(), data, CPU)


def models(network, count):
    draw = torch.Generator().manual_seed(1)
    start = network.layout.compact(network.layout.to_vector(network.initial))
    noise = torch.randn((count, len(start)), generator=draw)
    return network.layout.spread(start + noise)


def by_hand(logits, labels):
    """Return losses and hits with the rows of other tasks cut out of the logits."""
    losses, hits = [], []
    for row, label in zip(logits, labels.tolist(), strict=True):
        rows = [c for c in range(5) if TASKS[c] == TASKS[label]]
        own, wanted = row[rows], torch.tensor(rows.index(label))
        losses.append(functional.cross_entropy(own, wanted))
        hits.append(bool(own.argmax() == wanted))
    return torch.stack(losses), torch.tensor(hits).float()


def logits_of(network, vector, data):
    return network.function_of(vector)(data.images)


def test_rows_of_other_tasks_count_for_nothing_in_losses():
    logits, labels = torch.tensor([[0.0, 1.0, 2.0, 3.0, 4.0, 9.0]] * 3), torch.tensor([1, 4, -1])
    own = tasks_of(TASKS, CPU).own(logits, labels)  # with a sixth logit that no label has
    inf = float("inf")
    assert own[:2].tolist() == [[-inf, 1, 2, -inf, -inf, -inf], [0, -inf, -inf, 3, 4, -inf]]
    first, second = np.log(1 + np.e), np.log(1 + np.exp(-1) + np.exp(-4))
    assert losses_of(own, labels).tolist() == pytest.approx([first, second, 0])
    assert tasks_of((), CPU).own(logits, labels) is logits
    assert tasks_of((), CPU).loss(None) is None


def test_evaluation_is_over_the_classes_of_the_own_task(network, data):
    both = models(network, 2)
    for vector in both:
        losses, hits = by_hand(logits_of(network, vector, data), data.labels)
        found = network.evaluate(vector, data, 7)
        assert found == pytest.approx((losses.mean().item(), hits.mean().item()), rel=1e-5)
    together = network.evaluate_mixes(both, None, data, 7)
    for row, vector in zip(together, both, strict=True):
        assert row.tolist() == pytest.approx(network.evaluate(vector, data, 7), rel=1e-5)
    # an ensemble averages logits, or probabilities over the own classes
    logits = torch.stack([logits_of(network, vector, data) for vector in both]).mean(0)
    losses, hits = by_hand(logits, data.labels)
    expected = losses.mean().item(), hits.mean().item()
    assert measured(network, both, "logits", data) == pytest.approx(expected, rel=1e-5)
    own = [by_hand(logits_of(network, vector, data), data.labels)[0] for vector in both]
    expected = -torch.stack(own).neg().exp().mean(0).log().mean().item()
    assert measured(network, both, "probabilities", data)[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("together", [1, 3])
def test_gradients_are_those_of_a_head_for_each_task(network, data, together):
    block = models(network, together)
    out = torch.zeros(together, network.layout.parameter_size)
    expand = data.images.expand(together, -1, -1), data.labels.expand(together, -1)
    losses = network.gradients(block.clone(), *expand, [20] * together, out)
    for k, vector in enumerate(block):
        weights = vector.clone().requires_grad_()
        state = {e.name: e.view(weights) for e in network.layout.entries}
        logits = functional_call(network.module, state, data.images.long())
        loss = by_hand(logits, data.labels)[0].mean()
        (expected,) = torch.autograd.grad(loss, weights)
        torch.testing.assert_close(out[k], expected, rtol=1e-4, atol=1e-6)
        assert losses[k].item() == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("client", [Local, FedSAM, BalancedSoftmax, MOON])
def test_a_client_of_one_task_leaves_the_rows_of_the_other_alone(network, data, client):
    """Whatever it minimises, and although the rows are in its model."""
    start = network.layout.to_vector(network.initial)
    of = np.array(TASKS)[data.labels.numpy()]
    rows = [np.flatnonzero(of == task) for task in (1, 0)]  # more examples first
    block = start.repeat(2, 1)
    streams, plans = [rng(0, "batches", 1, k) for k in (0, 1)], [MaskPlan(0, 0, 0.0)] * 2
    stack = Stack(network, data, start, block, rows, streams, plans)
    found = client(batch_size=4, weight_decay=0.0).train(stack).losses
    assert found.isfinite().all()
    before = network.initial["fc.weight"].numpy()
    for task, vector in zip((1, 0), block, strict=True):
        (entry,) = (e for e in network.layout.entries if e.name == "fc.weight")
        moved = (entry.view(vector).numpy() != before).any(1)
        assert moved.tolist() == [of == task for of in TASKS]


def test_fisher_information_is_of_the_own_task(network, data):
    (vector,) = models(network, 1)
    one = data.at(np.array([1]))  # of class 1, whose task has the classes 1 and 2
    found = diagonal_fisher(network, vector, one, "exact")
    (bias,) = (e for e in network.layout.entries if e.name == "fc.bias")
    p = logits_of(network, vector, one)[0, [1, 2]].detach().softmax(0)[0].item()
    expected = [0, p * (1 - p), p * (1 - p), 0, 0]  # E (1[c] - p_c)^2 of two classes
    assert bias.view(found).tolist() == pytest.approx(expected, rel=1e-4)
