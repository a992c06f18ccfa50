"""Whole algorithms worked out by hand: two clients, two steps each, one weight, float64.

Client 0 has the loss 1/2 (w - 4)^2 and client 1 the loss 1/4 (w + 4)^2, so their gradients are
`w - 4` and `w/2 + 2`; the learning rate is 1/2 and the start is 0. Without anything else client 0
goes 0, 2, 3 and client 1 goes 0, -1, -1.75, by the gradients -4, -2 and 2, 1.5.
"""

import numpy as np
import pytest
from flwr.serverapp.strategy import (
    DifferentialPrivacyClientSideFixedClipping,
    DifferentialPrivacyServerSideFixedClipping,
    FedAvg,
)

from clients.feddyn import FedDyn as FedDynClient
from clients.fedprox import FedProx
from clients.local import Local
from clients.scaffold import Scaffold as ScaffoldClient
from fedalign.settings.contracts import FLOWER_SAMPLING
from strategies.feddyn import FedDyn
from strategies.fedexp import FedExP
from strategies.fednova import FedNova
from strategies.fedpfn import FedPFN
from strategies.scaffold import Scaffold

LOSSES = [(1, 4), (0.5, -4)]
ONE = {"lr": 0.5, "momentum": 0.0, "weight_decay": 0.0, "batch_size": 1}
TWO = {**ONE, "epochs": 2}


def fedavg(_):
    return FedAvg(**FLOWER_SAMPLING)


def around(kind, **options):
    return lambda layout: kind(fedavg(layout), layout, **options)


@pytest.fixture(params=[1, 2], ids=["one by one", "a stack"])
def run(request, quadratics):
    """The two clients, one after the other or as one block."""

    def run(strategy, client, **settings):
        return quadratics(strategy, client, LOSSES, stack=request.param, **settings)

    return run


def test_fedavg(run):
    assert run(fedavg, Local(**TWO)).models[0] == pytest.approx((3 - 1.75) / 2)


def test_scaffold(run):
    # Round 1: c = c_0 = c_1 = 0, so steps are FedAvg's. By option II, lr times steps being 1,
    # c_0 = -(3 - 0) = -3, the mean of its gradients; c_1 = 1.75.
    # x = (3 - 1.75)/2 = 0.625; c = 2/2 (-3 + 1.75)/2 = -0.625.
    # Round 2: client 0 adds c - c_0 = 2.375: -3.375 + 2.375 = -1, to 1.125; -2.875 + 2.375 = -0.5,
    # to 1.375. Client 1 adds -2.375: 2.3125 - 2.375 = -0.0625, to 0.65625; 2.328125 - 2.375 =
    # -0.046875, to 0.6796875. The means of the gradients alone are -3.125 and 2.3203125.
    seen = run(around(Scaffold, num_clients=2), ScaffoldClient(**TWO), rounds=2)
    assert np.ravel(seen.models) == pytest.approx([0.625, (1.375 + 0.6796875) / 2])
    assert seen.client_state(0)["control"] == pytest.approx(-3.125)
    assert seen.client_state(1)["control"] == pytest.approx(2.3203125)
    assert seen.strategy.control == pytest.approx((-3.125 + 2.3203125) / 2)


def test_scaffolds_server_step(run):
    seen = run(around(Scaffold, num_clients=2, server_lr=2.0), ScaffoldClient(**TWO))
    assert seen.models[0] == pytest.approx(1.25)
    assert seen.strategy.control == pytest.approx(-0.625)  # c is moved by |S|/N alone


def test_scaffold_moves_c_by_the_share_that_took_part(quadratics):
    """One of four clients: c moves by 1/4 of its change, and the others still have no c_i."""
    four = {"losses": [(1, 4)] * 4, "copies": (1, 1, 1, 1), "clients_per_round": 1}
    seen = quadratics(around(Scaffold, num_clients=4), ScaffoldClient(**TWO), **four)
    assert seen.models[0] == pytest.approx(3)
    assert seen.strategy.control == pytest.approx(-3 / 4)
    assert sum(bool(seen.client_state(k)) for k in range(4)) == 1


def test_scaffold_with_momentum(run):
    """Velocities -4 and -2 - 2, 2 and 1 + 1.5: to 4 and -2.25. Two steps are worth 1 + 1.5."""
    client = ScaffoldClient(**TWO | {"momentum": 0.5})
    seen = run(around(Scaffold, num_clients=2), client)
    assert seen.client_state(0)["control"] == pytest.approx(-4 / (0.5 * 2.5))
    assert seen.client_state(1)["control"] == pytest.approx(2.25 / (0.5 * 2.5))
    assert seen.strategy.control == pytest.approx((-3.2 + 1.8) / 2)


@pytest.mark.parametrize(("weighting", "share"), [("uniform", 0.5), ("examples", 0.75)])
def test_scaffold_weighs_models_as_told_and_controls_alike(quadratics, weighting, share):
    """Client 0 goes 2, 3, 3.5 on three examples, client 1 goes -1 on one."""
    strategy = around(Scaffold, num_clients=2, weighting=weighting)
    seen = quadratics(strategy, ScaffoldClient(**ONE), LOSSES, copies=(3, 1))
    assert seen.models[0] == pytest.approx(share * 3.5 - (1 - share))
    assert seen.strategy.control == pytest.approx((-3.5 / 1.5 + 2) / 2)


def test_feddyn(run):
    # alpha = 1/2. Round 1: client 0: -4, to 2; -2 + 0.5 * 2 = -1, to 2.5; g_0 = -0.5 * 2.5.
    # Client 1: 2, to -1; 1.5 - 0.5 = 1, to -1.5; g_1 = 0.5 * 1.5. The mean is 0.5;
    # h = -0.5 (2.5 - 1.5)/2 = -0.25; w = 0.5 + 0.25/0.5 = 1.
    # Round 2: client 0: -3 + 0 + 1.25 = -1.75, to 1.875; -2.125 + 0.4375 + 1.25 = -0.4375, to
    # 2.09375; g_0 = -1.25 - 0.5 * 1.09375. Client 1: 2.5 + 0 - 0.75 = 1.75, to 0.125;
    # 2.0625 - 0.4375 - 0.75 = 0.875, to -0.3125; g_1 = 0.75 + 0.5 * 1.3125. The mean is 0.890625;
    # h = -0.25 - 0.5 (1.09375 - 1.3125)/2 = -0.1953125; w = 0.890625 + 0.390625.
    seen = run(around(FedDyn, num_clients=2, alpha=0.5), FedDynClient(**TWO, alpha=0.5), rounds=2)
    assert np.ravel(seen.models) == pytest.approx([1, 1.28125])
    assert seen.client_state(0)["gradient"] == pytest.approx(-1.796875)
    assert seen.client_state(1)["gradient"] == pytest.approx(1.40625)
    assert seen.strategy.h == pytest.approx(-0.1953125)


def test_feddyn_with_one_of_four_clients(quadratics):
    """h = -0.5 * 1/4 * 2.5 = -0.3125, and w = 2.5 + 0.3125/0.5."""
    four = {"losses": [(1, 4)] * 4, "copies": (1, 1, 1, 1), "clients_per_round": 1}
    strategy = around(FedDyn, num_clients=4, alpha=0.5)
    seen = quadratics(strategy, FedDynClient(**TWO, alpha=0.5), **four)
    assert seen.models[0] == pytest.approx(3.125)
    assert sum(bool(seen.client_state(k)) for k in range(4)) == 1


def test_who_comes_to_rest_at_the_optimum_of_all(quadratics):
    """The sum of the two losses is least at 4/3; long local training makes FedAvg end elsewhere."""
    long, both = TWO | {"epochs": 8}, {"num_clients": 2}
    plain, scaffold, feddyn = (
        quadratics(strategy, client, LOSSES, rounds=40).models[-1]
        for strategy, client in [
            (fedavg, Local(**long)),
            (around(Scaffold, **both), ScaffoldClient(**long)),
            (around(FedDyn, **both, alpha=0.5), FedDynClient(**long, alpha=0.5)),
        ]
    )
    assert scaffold == pytest.approx(4 / 3)
    assert feddyn == pytest.approx(4 / 3)
    assert abs(plain - 4 / 3) > 0.5


@pytest.mark.parametrize(
    ("client", "normalized_steps", "expected"),
    [
        # To 3 and -1: 5/3 (2/3 * 3/2 - 1/3 * 1).
        (Local(**ONE), 2, 10 / 9),
        # v = -4, -4: to 4 and -1. a_0 is 1 + 1.5: 2 (2/3 * 4/2.5 - 1/3).
        (Local(**ONE | {"momentum": 0.5}), 2.5, 22 / 15),
        # To 2.5 and -1. a_0 is 1 + (1 - 0.5 * 0.5): 1.5 (2/3 * 2.5/1.75 - 1/3).
        (FedProx(**ONE, mu=0.5), 1.75, 1.5 * (2 / 3 * 2.5 / 1.75 - 1 / 3)),
    ],
    ids=["sgd", "momentum", "proximal"],
)
def test_fednova(quadratics, client, normalized_steps, expected):
    """Client 0 has two examples and makes two steps, client 1 has one and makes one."""
    seen = quadratics(around(FedNova), client, LOSSES, copies=(2, 1))
    assert seen.models[0] == pytest.approx(expected)
    assert seen.metrics[0]["normalized_steps"] == pytest.approx((2 * normalized_steps + 1) / 3)


@pytest.mark.parametrize(
    "clipping",
    [DifferentialPrivacyClientSideFixedClipping, DifferentialPrivacyServerSideFixedClipping],
)
@pytest.mark.parametrize("masked", [False, True])
def test_clipped_changes(run, clipping, masked):
    """Without noise: 3 is cut to 2, and -1.75 is not, masked strategy or none."""
    options = {"noise_multiplier": 0.0, "clipping_norm": 2.0, "num_sampled_clients": 2}

    def strategy(layout):
        private = clipping(fedavg(layout), **options)
        return FedPFN(private, layout, None, 0, fixed_ratio=0.0) if masked else private

    assert run(strategy, Local(**TWO)).models[0] == pytest.approx((2 - 1.75) / 2)


@pytest.mark.parametrize("eps", [0.0, 0.1])
def test_fedexp(run, eps):
    """Changes 3 and -1.75, whose mean is 0.625."""
    eta = (9 + 3.0625) / 2 / (2 * (0.390625 + eps))
    seen = run(around(FedExP, eps=eps), Local(**TWO))
    assert seen.models[0] == pytest.approx(0.625 * eta)
    assert seen.metrics[0]["server_step"] == pytest.approx(eta)


def test_fedexp_is_fedavg_where_clients_agree(quadratics):
    """Changes 3 and 3: eta would be 1/2, and is 1 at least."""
    seen = quadratics(around(FedExP), Local(**TWO), [(1, 4), (1, 4)])
    assert seen.models[0] == pytest.approx(3)
    assert seen.metrics[0]["server_step"] == 1


def test_fedexp_weighs_clients_as_the_mean_does(quadratics):
    """One step to 2 with weight 1/4; three to -1, -1.75, -2.3125 with 3/4."""
    seen = quadratics(around(FedExP, eps=0.0), Local(**ONE), LOSSES, copies=(1, 3))
    mean = 0.25 * 2 - 0.75 * 2.3125
    eta = (0.25 * 4 + 0.75 * 2.3125**2) / (2 * mean**2)
    assert eta > 1.5
    assert seen.models[0] == pytest.approx(mean * eta)
