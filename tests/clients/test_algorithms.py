"""What each client algorithm does, worked out by hand in float64, and its loss on given logits."""

from math import exp, log
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from flwr.serverapp.strategy import FedAvg

from clients.calibrated import BalancedSoftmax, FedLC
from clients.fedprox import FedProx
from clients.fedsam import FedSAM
from clients.local import Local
from clients.moon import MOON
from fedalign.settings.contracts import FLOWER_SAMPLING
from strategies.fedpfn import FedPFN

ONE = {"lr": 0.5, "momentum": 0.0, "weight_decay": 0.0, "batch_size": 1}
TWO = {**ONE, "epochs": 2}


@pytest.fixture
def ends(quadratics):
    """Where a client ends whose loss has its least value at b, from w = (0, 0)."""

    def ends(client, b, strategy=lambda _: FedAvg(**FLOWER_SAMPLING), **settings):
        return quadratics(strategy, client, [(1, b)], [0.0] * len(b), (1,), **settings).models[-1]

    return ends


def first_fixed(layout):
    """Of two weights the first is fixed, whatever the round: seed 0, if half of them are."""
    options = {"fixed_ratio": 0.5, "sampling": "exact", "refresh": 0}
    return FedPFN(FedAvg(**FLOWER_SAMPLING), layout, None, seed=0, **options)


@pytest.mark.parametrize("stack", [1, 2])
def test_fedprox(quadratics, stack):
    """Client 0: -4, to 2; -2 + 0.5 * 2 = -1, to 2.5. Client 1: 2, to -1; 1.5 - 0.5, to -1.5."""
    losses, strategy = [(1, 4), (0.5, -4)], lambda _: FedAvg(**FLOWER_SAMPLING)
    seen = quadratics(strategy, FedProx(**TWO, mu=0.5), losses, stack=stack, rounds=2)
    assert seen.models[0] == pytest.approx(0.5)
    # From 0.5: -3.5, to 2.25; -1.75 + 0.875, to 2.6875; and 2.25, to -0.625; 1.6875 - 0.5625, to
    # -1.1875.
    assert seen.models[1] == pytest.approx((2.6875 - 1.1875) / 2)


def test_momentum_and_weight_decay(ends):
    """v = -4, to 2; v = 0.5 * -4 + (2 - 4) + 0.25 * 2 = -3.5, to 3.75."""
    client = Local(**TWO | {"momentum": 0.5, "weight_decay": 0.25})
    assert ends(client, [4]) == pytest.approx([3.75])


def test_a_long_gradient_is_cut(ends):
    """(-3, -4) is 5 long and is cut to 1; then (-2.7, -3.6), 4.5 long."""
    assert ends(Local(**TWO, clip_norm=1.0), [3, 4]) == pytest.approx([0.6, 0.8])
    # A short one is left as it is, and momentum is that of what was cut: v = -1, -1.5.
    assert ends(Local(**TWO, clip_norm=9.0), [3, 4]) == pytest.approx([2.25, 3])
    client = Local(**TWO | {"momentum": 0.5}, clip_norm=1.0)
    assert ends(client, [3, 4]) == pytest.approx([0.75, 1])


def test_what_is_fixed_does_not_count_towards_a_long_gradient(ends):
    """Of (-3, -4) only -4 trains and is cut to -1."""
    assert ends(Local(**ONE, clip_norm=1.0), [3, 4], first_fixed) == pytest.approx([0, 0.5])


def test_fedsam(ends):
    """Along b, 5 long: steps of half of 5 + 0.5, then of half of 2.25 + 0.5."""
    assert ends(FedSAM(**TWO, rho=0.5), [3, 4]) == pytest.approx([4.125 * 0.6, 4.125 * 0.8])


def test_fedsam_climbs_with_what_trains(ends):
    """Only -4 counts: (4 + 0.5)/2."""
    assert ends(FedSAM(**ONE, rho=0.5), [3, 4], first_fixed) == pytest.approx([0, 2.25])


def test_fedsam_with_momentum_from_a_flat_place(ends):
    """Where the gradient is 0 there is no way up, and nothing moves."""
    assert ends(FedSAM(**TWO | {"momentum": 0.9}), [0, 0]) == pytest.approx([0, 0])


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ({}, [0.5, 0.5, 0.5]),
        ({"lr_schedule": "exponential", "lr_decay": 0.5}, [0.5, 0.25, 0.125]),
        ({"lr_schedule": "cosine"}, [0.5, 0.375, 0.125]),  # (1 + cos(0, pi/3, 2 pi/3)) / 2
    ],
)
def test_learning_rates(ends, schedule, rates):
    """One step a round: each leaves 1 - lr of the way."""
    left = np.prod([1 - rate for rate in rates])
    assert ends(Local(**ONE, **schedule), [4], rounds=3) == pytest.approx([4 * (1 - left)])


def trained_on(data, rows):
    stack = SimpleNamespace(data=data, rows=[np.array(own) for own in rows])
    return SimpleNamespace(stack=stack, block=torch.zeros(len(rows), 1).double(), own={})


LOGITS = torch.tensor([[[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]]).double().repeat(2, 1, 1)
LABELS = torch.tensor([[0, 1], [1, -1]])


@pytest.mark.parametrize(
    ("client", "shift"),
    [
        # Client 0 has 16 examples of class 0 and one of class 1: 16^(-1/4) = 1/2.
        (FedLC(tau=2.0), [[-1, -2, None], [None, -2 * 3**-0.25, -2]]),
        (BalancedSoftmax(), [[log(16), 0, None], [None, log(3), 0]]),
    ],
)
def test_losses_of_rare_classes(client, shift):
    """A class that a client does not have adds nothing to the sum over classes."""
    data = SimpleNamespace(labels=torch.tensor([0] * 16 + [1] * 4 + [2]), classes=3)
    training = trained_on(data, [range(17), range(17, 21)])
    client.begin(training)
    loss = client.loss(training)
    found = loss(LOGITS, LABELS, torch.empty(0), slice(0, 2))

    def expected(own, label):
        logits = [z + s if s is not None else -np.inf for z, s in zip([1, 2, 3], own, strict=True)]
        return log(sum(exp(z) for z in logits)) - logits[label]

    by_hand = [[expected(shift[0], 0), expected(shift[0], 1)], [expected(shift[1], 1), 0]]
    assert found.tolist() == [pytest.approx(own) for own in by_hand]
    # The second client alone, as where clients are not stacked.
    assert torch.equal(loss(LOGITS[1:], LABELS[1:], torch.empty(0), slice(1, 2)), found[1:])


def test_an_absent_class_gets_no_gradient():
    data = SimpleNamespace(labels=torch.tensor([0, 1]), classes=3)
    training, logits = trained_on(data, [[0, 1]]), LOGITS[:1].clone().requires_grad_()
    for client in (FedLC(), BalancedSoftmax()):
        client.begin(training)
        client.loss(training)(logits, LABELS[:1], torch.empty(0), slice(0, 1)).sum().backward()
        assert (logits.grad[..., 2] == 0).all()
        assert (logits.grad[..., :2] != 0).all()


def moon(glob, prev, **options):
    """MOON's loss where the global and the last models see given features `(K, B, D)`."""
    start, last = torch.zeros(1), torch.ones(len(prev), 1)

    def features(block, images):
        return glob.reshape(1, *images.shape[1:2], -1) if block[0] == 0 else prev

    stack = SimpleNamespace(network=SimpleNamespace(features=features))
    images, own = torch.zeros(*glob.shape[:2], 1, 1, 1), {"previous": last}
    training = SimpleNamespace(stack=stack, images=images, own=own, start=start)
    return MOON(**options).loss(training)


def test_moon_on_given_features():
    """z = (1, 0); the global model's are (1, 1) and (0, 1), the last one's (-1, 0) and (0, 2).

    cos is 1/sqrt(2) and -1 for the first example, 0 and 0 for the second; T = 0.5. The third
    example only fills up the batch.
    """
    z = torch.tensor([[[1.0, 0.0]] * 3] * 2).double()
    glob = torch.tensor([[[1.0, 1.0], [0.0, 1.0], [5.0, 5.0]]] * 2).double()
    prev = torch.tensor([[[-1.0, 0.0], [0.0, 2.0], [1.0, 0.0]]] * 2).double()
    labels = torch.tensor([[0, 0, -1]] * 2)
    logits = torch.zeros(2, 3, 4).double()
    loss = moon(glob, prev, mu=3.0, temperature=0.5)
    near, far = 2**-0.5 / 0.5, -1 / 0.5
    terms = [-log(exp(near) / (exp(near) + exp(far))), log(2), 0]
    by_hand = [log(4) + 3 * terms[0], log(4) + 3 * terms[1], 0]
    found = loss(logits, labels, z, slice(0, 2))
    assert found.tolist() == [pytest.approx(by_hand)] * 2
    alone = loss(logits[1:, :2], labels[1:, :2], z[1:, :2], slice(1, 2))
    assert torch.equal(alone, found[1:, :2])


def test_moon_moves_features_to_the_global_models_and_away_from_the_last():
    z = torch.tensor([[[1.0, 1.0]]]).double().requires_grad_()
    glob, prev = torch.tensor([[[1.0, 0.0]]]).double(), torch.tensor([[[0.0, 1.0]]]).double()
    loss = moon(glob, prev)(torch.zeros(1, 1, 2).double(), torch.zeros(1, 1).long(), z, slice(0, 1))
    loss.sum().backward()
    assert z.grad[0, 0, 0] < 0 < z.grad[0, 0, 1]
