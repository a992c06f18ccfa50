"""Masked training worked out by hand: two weights of which one is fixed, float64.

With seed 0 the first weight is fixed when the mask is first drawn, the second when it is drawn the
second and third time. One client has the loss `1/2 |w - 4|^2`: with learning rate 1/2 a weight goes
0, 2, 3, 3.5. Of two clients the other has `1/4 |w + 4|^2`; together they make 0.625 of 0 in two
steps, and in general `(0.25 w + 3 + 0.5625 w - 1.75) / 2` of w.
"""

import json

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from flwr.serverapp.strategy import FedAdam, FedAvg, FedAvgM

from clients.local import Local
from fedalign.errors import InputError
from fedalign.masks.phases import update_mask
from fedalign.settings.contracts import FLOWER_SAMPLING
from strategies.fedbabu import FedBABU
from strategies.fedpfn import FedPFN
from strategies.fedpnu import FedPNU

ONE = {"lr": 0.5, "momentum": 0.0, "weight_decay": 0.0, "batch_size": 1}
TWO = {**ONE, "epochs": 2}
FOUR = {**ONE, "epochs": 4}
HALF = {"fixed_ratio": 0.5, "sampling": "exact"}


def together(w):
    return (0.25 * w + 3 + 0.5625 * w - 1.75) / 2


ONCE = together(0)
TWICE = together(ONCE)


def plan(kind=FedPFN, base=FedAvg, first=0.0, seed=0, server=(), **options):
    def build(layout):
        initial = ArrayRecord({e.name: Array(np.full(e.shape, first)) for e in layout.entries})
        inner = base(**FLOWER_SAMPLING, **dict(server))
        return kind(inner, layout, initial, seed, **HALF, **options)

    return build


@pytest.fixture
def one(quadratics):
    """Where one client ends."""

    def one(client, start=(0.0, 0.0), rounds=1, copies=1, **options):
        losses = [(1, (4, 4))]
        seen = quadratics(plan(**options), client, losses, start, (copies,), rounds=rounds)
        return seen.models[-1].tolist()

    return one


@pytest.fixture(params=[1, 2], ids=["one by one", "a stack"])
def two(request, quadratics):
    """Where two clients end after each round."""

    def two(rounds, start=(0.0, 0.0), **options):
        losses = [(1, (4, 4)), (0.5, (-4, -4))]
        settings = {"rounds": rounds, "stack": request.param}
        seen = quadratics(plan(first=start[0], **options), Local(**TWO), losses, start, **settings)
        return [pytest.approx(model.tolist()) for model in seen.models]

    return two


def test_a_fresh_mask_each_round(two):
    assert two(3) == [[0, ONCE], [ONCE, ONCE], [TWICE, ONCE]]


def test_one_mask_for_the_run(two):
    assert two(2, refresh=0) == [[0, ONCE], [0, TWICE]]


def test_alternate_rounds(two):
    """A mask and its complement, then the next one and its complement."""
    expected = [[0, ONCE], [ONCE, ONCE], [TWICE, ONCE], [TWICE, TWICE]]
    assert two(4, schedule="alternate_rounds") == expected
    other_way = json.dumps({"name": "alternate_rounds", "first": "complement"})
    assert two(2, schedule=other_way) == [[ONCE, 0], [ONCE, ONCE]]


def test_frozen_then_full(two):
    schedule = json.dumps({"name": "frozen_then_full", "rounds": 1})
    assert two(2, schedule=schedule) == [[0, ONCE], [ONCE, TWICE]]


def test_growing_over_rounds(two):
    """Half is fixed, then a quarter, which of two evenly placed weights still is none."""
    schedule = json.dumps({"name": "growing", "over": "rounds", "length": 2})
    assert two(2, schedule=schedule, refresh=0) == [[0, ONCE], [ONCE, TWICE]]


def test_values_of_fixed_weights(two):
    from_one = together(1.0)
    start = (1.0, 1.0)
    assert two(2, start, fixed_value="global") == [[1, from_one], [from_one, from_one]]
    assert two(2, start, fixed_value="init") == [[1, from_one], [from_one, 1]]
    assert two(2, start, fixed_value="zero") == [[0, from_one], [ONCE, 0]]
    assert two(2, start, fixed_value="zero", freeze="grad_only") == [[0, from_one], [ONCE, 0]]


def test_values_need_one_mask_for_all(two):
    with pytest.raises(InputError, match=r"strategy.fixed_value: 'zero' is sent with the model"):
        two(1, fixed_value="zero", per_client=True)


def test_masks_of_their_own(quadratics):
    """Client 0 trains one weight to 3, client 1 the same or the other to -1.75."""
    drawn = set()
    for seed in range(5):
        losses, build = [(1, (4, 4)), (0.5, (-4, -4))], plan(seed=seed, per_client=True)
        seen = quadratics(build, Local(**TWO), losses, (0.0, 0.0))
        round_plan = seen.strategy.plan(1)
        masks = [update_mask(round_plan.of(k), seen.layout) for k in (0, 1)]
        first, second = (seen.layout.compact(mask).tolist() for mask in masks)
        expected = [(3 * a - 1.75 * b) / 2 for a, b in zip(first, second, strict=True)]
        assert seen.models[0] == pytest.approx(expected)
        drawn.add(first == second)
    assert drawn == {True, False}


@pytest.mark.parametrize(
    ("schedule", "epochs", "expected"),
    [
        ("complement_half", 1, [0, 2]),  # one step, which is the first half's
        ("complement_half", 2, [2, 2]),
        ("complement_half", 3, [2, 3]),
        ("complement_epochs", 2, [2, 2]),
        ("complement_epochs", 3, [2, 3]),
        ({"name": "complement_half", "first": "complement"}, 3, [3, 2]),
        ({"name": "k_way", "parts": 2}, 3, [3, 2]),
        ({"name": "growing", "length": 2}, 2, [2, 3]),
        ({"name": "growing", "length": 2}, 4, [3, 3.75]),
    ],
)
def test_schedules_within_a_round(one, schedule, epochs, expected):
    schedule = schedule if isinstance(schedule, str) else json.dumps(schedule)
    assert one(Local(**ONE | {"epochs": epochs}), kind=FedPNU, schedule=schedule) == expected


def test_epochs_are_not_steps(one):
    """Two examples: three epochs are 6 steps, of which 4 are in the first two epochs."""
    found = one(Local(**ONE | {"epochs": 3}), copies=2, kind=FedPNU, schedule="complement_epochs")
    assert found == [4 - 4 / 2**2, 4 - 4 / 2**4]


# With momentum 1/2 two steps are -4, to 2, and -2 - 2, to 4. Where only gradients are masked and
# nothing is reset, the second weight then goes on by -2, to 5, and by -1, to 5.5.
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [4, 4]),
        ({"reset": False}, [4, 4]),
        ({"freeze": "grad_only"}, [4, 4]),
        ({"freeze": "grad_only", "reset": False}, [4, 5.5]),
    ],
)
def test_momentum_where_the_mask_changes(one, options, expected):
    assert one(Local(**FOUR | {"momentum": 0.5}), kind=FedPNU, **options) == expected


@pytest.mark.parametrize(("reset", "expected"), [(True, [2, 3]), (False, [2, 4])])
def test_momentum_of_weights_that_go_on(one, reset, expected):
    schedule = json.dumps({"name": "growing", "length": 2})
    client = Local(**TWO | {"momentum": 0.5})
    assert one(client, kind=FedPNU, schedule=schedule, reset=reset) == expected


def test_weight_decay_of_fixed_weights(one):
    """Only where gradients alone are masked: 1 - 0.5 * 0.5 * 1. The other: 1 - 0.5 (-3 + 0.5)."""
    client, start = Local(**ONE | {"weight_decay": 0.5}), (1.0, 1.0)
    assert one(client, start) == [1, 2.25]
    assert one(client, start, freeze="grad_only") == [0.75, 2.25]


def test_slow_weights(one):
    """A quarter of each step: 0.25 * 2, to 0.5; 0.25 * 1.75, to 0.9375."""
    assert one(Local(**TWO), fixed_lr_scale=0.25) == [0.9375, 3]
    assert one(Local(**TWO), fixed_lr_scale=1.0) == [3, 3]


def test_server_momentum_and_fixed_weights(two):
    """Round 1 moves the second weight by 0.625, round 2 the first; half of 0.625 is left over."""
    server = {"server_momentum": 0.5, "server_learning_rate": 1.0}.items()
    held = two(2, base=FedAvgM, server=server)
    assert held == [[0, ONCE], [ONCE, ONCE]]
    moved = two(2, base=FedAvgM, server=server, mask_server_step=False)
    assert moved == [[0, ONCE], [ONCE, 1.5 * ONCE]]


def test_server_adam_and_fixed_weights(quadratics):
    losses = [(1, (4, 4)), (0.5, (-4, -4))]
    for mask_server_step in (True, False):
        build = plan(base=FedAdam, mask_server_step=mask_server_step)
        first, second = quadratics(build, Local(**TWO), losses, (0.0, 0.0), rounds=2).models
        assert first[0] == 0 < first[1]
        assert second[0] > 0
        assert bool(second[1] == first[1]) is mask_server_step


def test_fedbabu_holds_the_last_layer(quadratics):
    """Which here is the only one."""

    def build(layout):
        return FedBABU(FedAvg(**FLOWER_SAMPLING), layout, ArrayRecord(), 0)

    losses = [(1, (4, 4)), (0.5, (-4, -4))]
    assert quadratics(build, Local(**TWO), losses, (1.0, 1.0)).models[0].tolist() == [1, 1]
