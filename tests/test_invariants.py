"""What holds for every client algorithm with any options (the promises of FedPFN and FedPNU)."""

import json
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from clients.local import Local
from fedalign.algorithm import Stack
from fedalign.data import Dataset
from fedalign.masks.phases import phases, update_mask
from fedalign.masks.plan import MaskPlan
from fedalign.network.network import Network
from fedalign.rng import rng
from fedalign.settings.builtin import BUILTIN
from fedalign.settings.registry import load
from tests.pairs import combinations

ALGORITHMS = {name: load("clients", name) for name in BUILTIN["clients"]}
SCHEDULES = [name for name in BUILTIN["schedules"] if name != "k_way"]  # it has no fixed_ratio
HEAVY = {"momentum": 0.9, "weight_decay": 0.05, "batch_size": 4}
RULES = {
    "sgd": HEAVY,
    "clipped": HEAVY | {"clip_norm": 0.5},
    "adam": HEAVY | {"optimizer": "adam", "lr": 0.01},
    "adamw": HEAVY
    | {"optimizer": "adamw", "lr": 0.01, "lr_within_round": "linear", "mixup": 0.3}
    | {"augment": ("flip", "crop"), "label_smoothing": 0.1},
}
SIZES = [11, 9, 9, 6, 3]
MARKED = [pytest.param(rule, marks=[pytest.mark.slow] * (rule == "adam")) for rule in RULES]


def train(network, data, algorithm, plan, sizes=SIZES, only=None):
    """Train all clients as one stack, or `only` one of them, as in a later round of a run.

    They have control variates, gradients and models of earlier rounds.
    """
    clients = range(len(sizes)) if only is None else [only]
    count, draw = network.layout.num_parameters, torch.Generator().manual_seed(1)
    start = network.layout.to_vector(network.initial)
    known = network.layout.spread(torch.randn(count, generator=draw) / 100)
    stack = Stack(
        network,
        data,
        start,
        start.repeat(len(clients), 1),
        rows=[np.arange(k, k + sizes[k]) for k in clients],
        streams=[rng(0, "batches", 2, k) for k in clients],
        plans=[plan.of(k) for k in clients],
        server_round=2,
        rounds=3,
        received={"control": known},
        client_states=[
            {"control": known * k, "gradient": known * k, "model": start * (1 + k / 10)}
            for k in clients
        ],
    )
    result = algorithm.train(stack)
    return start, stack.block, result


@pytest.mark.parametrize(
    ("name", "rule", "clients", "own"), combinations(ALGORITHMS, RULES, [1, 5], [False, True])
)
def test_fixed_weights_keep_their_bits(network, data, name, rule, clients, own):
    plan = MaskPlan(0, 0, 0.4, per_client=own)
    start, block, _ = train(network, data, ALGORITHMS[name](**RULES[rule]), plan, SIZES[:clients])
    for k, vector in enumerate(block):
        free = update_mask(plan.of(k), network.layout)
        count = len(free)
        assert torch.equal(vector[:count][~free], start[:count][~free])
        assert (vector[:count][free] != start[:count][free]).float().mean() > 0.9


@pytest.mark.parametrize("name", ALGORITHMS)
def test_algorithms_that_store_client_state_say_so(network, data, name):
    _, _, result = train(network, data, ALGORITHMS[name](), MaskPlan())
    assert bool(result.client_state) == getattr(ALGORITHMS[name], "stateful", False)


@pytest.mark.parametrize("rule", MARKED)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_all_fixed_moves_nothing_but_batchnorm(network, data, name, rule):
    start, block, _ = train(network, data, ALGORITHMS[name](**RULES[rule]), MaskPlan(fixed_ratio=1))
    count = network.layout.parameter_size
    assert torch.equal(block[:, :count], start[:count].expand(len(SIZES), -1))
    assert (block[:, count:] != start[count:]).any(1).all()


MASKS = {
    "none": MaskPlan(),
    "half": MaskPlan(0, 0, 0.5, "complement_half"),
    "own": MaskPlan(0, 0, 0.4, per_client=True, exclude="head"),
    "slow": MaskPlan(0, 0, 0.4, fixed_lr_scale=0.2),
    "gradients": MaskPlan(0, 0, 0.4, freeze="grad_only", reset=False),
}


@pytest.mark.parametrize(("name", "mask", "rule"), combinations(ALGORITHMS, MASKS, RULES))
def test_padding_stays_0(network, data, name, rule, mask):
    """In models, in what is sent beside them, and in what clients store."""
    layout = network.layout
    for sizes in (SIZES[:1], SIZES):
        algorithm = ALGORITHMS[name](**RULES[rule], epochs=2)
        start, block, result = train(network, data, algorithm, MASKS[mask], sizes)
        vectors = [*result.sends.values(), *result.client_state.values()]
        for found in (start, block, *vectors):
            assert found.shape[-1] in (layout.parameter_size, layout.size)
            assert torch.equal(layout.spread(layout.compact(found)), found)


@pytest.mark.parametrize("rule", MARKED)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_nothing_fixed_is_no_mask_to_the_bit(network, data, name, rule):
    algorithm = ALGORITHMS[name](**RULES[rule], epochs=2)
    _, plain, told = train(network, data, algorithm, MaskPlan())
    for schedule in SCHEDULES[list(RULES).index(rule) :: len(RULES)]:
        _, block, result = train(network, data, algorithm, MaskPlan(0, 0, 0.0, schedule))
        assert torch.equal(block, plain)
        assert torch.equal(result.losses, told.losses)
        assert (
            result.metrics["normalized_steps"].tolist() == told.metrics["normalized_steps"].tolist()
        )


@pytest.mark.parametrize("rule", MARKED)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_each_half_is_held_in_turn(network, data, name, rule, monkeypatch):
    """Clients of 6, 6, 6, 4 and 2 steps: 3, 3, 3, 2 and 1 of them belong to the first half."""
    step, seen = Local.step, []

    def spy(self, training, own):
        losses = step(self, training, own)
        seen.append(training.weights.clone())
        return losses

    monkeypatch.setattr(Local, "step", spy)
    plan = MaskPlan(0, 0, 0.5, "complement_half")
    start, _, _ = train(network, data, ALGORITHMS[name](**RULES[rule], epochs=2), plan)
    first = phases(plan, network.layout, 6)[0].trains
    start = start[: len(first)]
    for k, (half, steps) in enumerate([(3, 6), (3, 6), (3, 6), (2, 4), (1, 2)]):
        models = [block[k] for block in seen]
        for model in models[:half]:
            assert torch.equal(model[~first], start[~first])
        for model in models[half:]:
            assert torch.equal(model[first], models[half - 1][first])
        assert (models[half - 1][first] != start[first]).any()
        assert (models[steps - 1][~first] != start[~first]).any()
        assert torch.equal(models[-1], models[steps - 1])


def test_fedsam_counts_a_batch_once(network, data):
    """BatchNorm's statistics are those at the weights, and not where the gradient is taken."""
    options = HEAVY | {"batch_size": 20}
    sizes, count = [20, 20], network.layout.parameter_size
    _, plain, _ = train(network, data, Local(**options), MaskPlan(), sizes)
    _, block, _ = train(network, data, ALGORITHMS["fedsam"](**options), MaskPlan(), sizes)
    assert torch.equal(block[:, count:], plain[:, count:])
    assert not torch.equal(block[:, :count], plain[:, :count])


class Tied(nn.Module):
    """A weight used twice, and a number that no vector holds; no norm."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(36, 36), nn.Linear(36, 36), nn.Linear(36, 3)
        self.second.weight = self.first.weight
        self.scale = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        return self.head(torch.tanh(self.second(torch.tanh(self.first(x.flatten(1))))) * self.scale)


def norms():
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 4, 3),
        nn.GroupNorm(2, 4),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


def no_norm():
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.Tanh(), nn.Linear(8, 3))


def unknown():
    """A network with a layer that nothing runs for many models at once."""
    return nn.Sequential(nn.ConvTranspose2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3))


@cache
def networks():
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (30, 1, 6, 6), generator=draw).to(torch.uint8)
    data = Dataset(images, torch.arange(30) % 3, 3, (0.5,), (0.3,), "made up")
    torch.manual_seed(0)
    cpu = torch.device("cpu")
    return data, [Network(build(), data, cpu) for build in (Tied, norms, no_norm, unknown)]


@given(
    which=st.integers(0, 3),
    name=st.sampled_from(sorted(ALGORITHMS)),
    rule=st.sampled_from(["sgd", "clipped"]),
    sizes=st.lists(st.integers(1, 20), min_size=2, max_size=5),
    plan=st.builds(
        MaskPlan,
        fixed_ratio=st.floats(0, 1),
        schedule=st.sampled_from([*SCHEDULES, json.dumps({"name": "k_way", "parts": 3})]),
        granularity=st.sampled_from(["weight", "neuron", "layer"]),
        sampling=st.sampled_from(["bernoulli", "exact"]),
        exclude=st.sampled_from(["", "head"]),
        freeze=st.sampled_from(["exact", "grad_only"]),
        fixed_lr_scale=st.sampled_from([0.0, 0.2]),
        reset=st.booleans(),
        per_client=st.booleans(),
    ),
)
def test_a_stack_is_its_clients_one_by_one(which, name, rule, sizes, plan):
    """Also where a client's batches are smaller, its steps fewer, or its mask another.

    Not with Adam, which divides by the gradient where that is nothing but rounding.
    """
    (data, built), sizes = networks(), sorted(sizes, reverse=True)
    network, algorithm = built[which], ALGORITHMS[name](**RULES[rule] | {"epochs": 3, "lr": 0.02})
    assert (network.stacked is None) is (which == 3)
    _, block, together = train(network, data, algorithm, plan, sizes)
    for k in range(len(sizes)):
        _, own, alone = train(network, data, algorithm, plan, sizes, only=k)
        close(block[k], own[0])
        close(together.losses[k], alone.losses[0])
        for ours, theirs in [
            (together.sends, alone.sends),
            (together.client_state, alone.client_state),
        ]:
            assert ours.keys() == theirs.keys()
            for key, value in ours.items():
                close(value[k], theirs[key][0])


def close(one, other):
    """Alike but for float32, in which sums of another order differ."""
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
