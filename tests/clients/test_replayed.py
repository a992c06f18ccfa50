"""Steps that are captured once and replayed make what plain steps make."""

from copy import copy, deepcopy
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from clients.augment import NAMES
from clients.calibrated import BalancedSoftmax, FedLC
from clients.feddyn import FedDyn
from clients.fedprox import FedProx
from clients.fedsam import FedSAM
from clients.local import Local
from clients.moon import MOON
from clients.scaffold import Scaffold
from clients.training import Training
from fedalign.algorithm import Stack
from fedalign.data import Dataset
from fedalign.masks.plan import MaskPlan
from fedalign.messages.private import Private
from fedalign.network import convolution, kernels
from fedalign.network.inputs import Inputs
from fedalign.network.network import Network
from fedalign.network.one_by_one import OneByOne
from fedalign.network.stacked import Stacked
from fedalign.network.stacking import Stacking
from fedalign.rng import rng
from tests.tape import HostBan, Tapes

CLIENTS = {
    "local": Local,
    "fedprox": FedProx,
    "scaffold": Scaffold,
    "feddyn": FedDyn,
    "fedsam": FedSAM,
    "moon": MOON,
    "fedlc": FedLC,
    "balanced": BalancedSoftmax,
}
RULES = {
    "sgd": {"momentum": 0.0, "weight_decay": 0.0},
    "momentum": {"weight_decay": 0.0},
    "momentum and decay": {},
    "clipped": {"clip_norm": 1.0},
    "adam": {"optimizer": "adam", "lr": 0.002},
    "cosine": {"lr_schedule": "cosine"},
    "fine-tuning": {
        **{"optimizer": "adamw", "lr": 0.002, "weight_decay": 0.5},
        **{"augment": NAMES, "label_smoothing": 0.1, "mixup": 0.4},
        **{"lr_within_round": "cosine", "warmup": 0.3},
    },
}
SCHEDULES = [
    "hold",
    "complement_half",
    "complement_epochs",
    "alternate_rounds",
    "k_way",
    "growing",
    '{"name": "growing", "over": "rounds"}',
    '{"name": "frozen_then_full", "rounds": 1}',
]
MASKS = {
    "all train": MaskPlan(),
    **{name: MaskPlan(fixed_ratio=0.4, schedule=name) for name in SCHEDULES},
    "no reset": MaskPlan(fixed_ratio=0.4, schedule="complement_half", reset=False),
    "gradients only": MaskPlan(fixed_ratio=0.4, freeze="grad_only"),
    "slowed": MaskPlan(fixed_ratio=0.4, fixed_lr_scale=0.1),
    "per client": MaskPlan(fixed_ratio=0.4, per_client=True),
}
COUNTS = [30, 20, 20, 18, 12, 11, 10, 8, 2]  # 9, 7, 4 and 1 of them train in a step


def data():
    draw = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 10
    images = (
        torch.randint(0, 256, (200, 1, 8, 8), generator=draw) // 2 + labels[:, None, None, None]
    )
    return Dataset(images.to(torch.uint8), labels, 10, (0.5,), (0.5,), "made up")


@cache
def built():
    torch.manual_seed(0)
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(36, 12), nn.ReLU(), nn.Linear(12, 10),
    )  # fmt: skip
    found = Network(module, EXAMPLES, torch.device("cpu"))
    assert found.stacked
    return found


def network(graphs=None):
    found = copy(built())
    found.graphs = graphs
    return found


EXAMPLES = data()


def stack_of(network, plan, number=1, states=(), counts=COUNTS):
    """What nine clients know in a round in which they have other examples than before."""
    draw = rng(0, "rows", number)
    rows = [draw.permutation(200)[:count] for count in counts]
    start = network.receive(network.initial) + 0.01 * number
    start = network.layout.spread(network.layout.compact(start))  # padding is 0
    start[network.layout.parameter_size :].abs_()
    return Stack(
        network, EXAMPLES, start, start.repeat(len(rows), 1), rows,
        [rng(0, "batches", number, k) for k in range(len(rows))],
        [plan.of(k) for k in range(len(rows))], number, 3, {}, states,
    )  # fmt: skip


def keep_apart(stack):
    """Let each client of a stack keep the last layer to itself."""
    layout = stack.network.layout
    stack.private = Private.of("head", layout).mask()
    for k, row in enumerate(stack.block):
        row[stack.private] += 0.01 * k
    return stack


def rounds(graphs, client, plan, count=2, private=False):
    """All that comes of some rounds, the last one's tensors taken as they are after it."""
    ours, found, states = network(graphs), [], ()
    for number in range(1, count + 1):
        stack = stack_of(ours, MaskPlan(**{**vars(plan), "server_round": number}), number, states)
        stack = keep_apart(stack) if private else stack
        result = client.train(stack)
        states = [{key: value[k] for key, value in result.client_state.items()} for k in range(9)]
        found += [stack.block, result.losses, *result.sends.values(), *result.client_state.values()]
    return found


def client_of(kind=Local, **more):
    return kind(batch_size=8, epochs=2, **more)


QUICK = [  # each client, rule and mask once
    ("local", "sgd", "all train"),
    ("local", "adam", "hold"),
    ("local", "clipped", "complement_epochs"),
    ("local", "cosine", "alternate_rounds"),
    ("local", "momentum", "k_way"),
    ("fedprox", "momentum and decay", "growing"),
    ("scaffold", "momentum and decay", SCHEDULES[6]),
    ("feddyn", "momentum and decay", SCHEDULES[7]),
    ("fedsam", "momentum and decay", "no reset"),
    ("moon", "momentum and decay", "gradients only"),
    ("fedlc", "momentum and decay", "slowed"),
    ("balanced", "momentum and decay", "per client"),
    ("local", "fine-tuning", "hold"),
]
SLOW = [
    *((name, "momentum and decay", "complement_half") for name in CLIENTS),
    *(("local", name, "complement_half") for name in RULES if name != "momentum and decay"),
    *((name, "fine-tuning", "hold") for name in CLIENTS if name != "local"),
    *(("local", "momentum and decay", name) for name in MASKS if name != "complement_half"),
    *(("local", "adam", name) for name in MASKS if name not in ("hold", "complement_half")),
]
CASES = [
    pytest.param(CLIENTS[client], RULES[rule], mask, id=f"{client}, {rule}, {mask}", marks=marks)
    for cases, marks in ((QUICK, []), (SLOW, [pytest.mark.slow]))
    for client, rule, mask in cases
]


@pytest.mark.parametrize(("kind", "options", "mask"), CASES)
def test_replayed_steps_are_plain_steps(kind, options, mask):
    client, tapes = client_of(kind, **options), Tapes()
    replayed = rounds(tapes, client, MASKS[mask])
    assert not tapes.refused
    assert tapes.tapes >= 4  # widths of 9, 7, 5, 3 and 1 clients, each once for a kind of mask
    same_shapes = rounds(Tapes(refuses=True), client, MASKS[mask])
    for ours, theirs in zip(replayed, same_shapes, strict=True):
        assert torch.equal(ours, theirs)
    far = 2e-5 if client.optimizer == "sgd" else 0.01  # Adam makes whole steps of mere rounding
    for ours, theirs in zip(replayed, rounds(None, client, MASKS[mask]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-4, atol=far)


@pytest.mark.parametrize(
    "mask", ["all train", "complement_half", "per client", "no reset", "slowed"]
)
def test_rounds_of_one_form_are_replayed_whole(mask):
    client, tapes, count = client_of(Local), Tapes(), 6
    replayed = rounds(tapes, client, MASKS[mask], count)
    assert not tapes.refused
    whole = [form for own in tapes._kept.values() for form in own._captured if type(form) is tuple]
    assert len(whole) == 1
    plain = rounds(Tapes(refuses=True), client, MASKS[mask], count)
    for ours, theirs in zip(replayed, plain, strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(("kind", "options", "mask"), CASES)
def test_a_step_takes_nothing_from_the_host(kind, options, mask):
    client = client_of(kind, **options)
    training = Training(client, stack_of(network(Tapes()), MASKS[mask]))
    client.begin(training)
    client.step(training, training.plan.at(0))  # what is made once is made
    done = []
    for number in range(len(training.plan.widths)):
        step = training.plan.at(number)
        with HostBan() as ban:
            training.enter(number)
        ban.launches.clear()
        with ban:
            client.step(training, step)
        done.append((training.plan.widths[number], tuple(ban.launches)))
    assert len(set(done)) == len(set(training.plan.widths))  # each width always does the same


@pytest.mark.parametrize(("kind", "options", "mask"), CASES)
def test_a_step_keeps_to_the_device(kind, options, mask, monkeypatch):
    """On a device that holds no values, so that nobody can read or copy one unnoticed."""
    client, place, plain = client_of(kind, **options), torch.device("meta"), network()
    for module in (kernels, convolution):
        monkeypatch.setattr(module, "cast", lambda *tensors: list(tensors))  # knows no such device
    ours, module = copy(plain), deepcopy(plain.module)
    ours.device, ours.graphs = place, Tapes()
    ours.stacking = Stacking(Stacked(module, plain.layout))
    ours._inputs, ours._plain = Inputs(EXAMPLES, place), OneByOne(module.to(place), plain.layout)
    stack = stack_of(plain, MASKS[mask])
    there = {name: getattr(EXAMPLES, name).to(place) for name in ("images", "labels")}
    like = {"classes": 10, "mean": EXAMPLES.mean, "shape": EXAMPLES.shape}
    stack.network, stack.data = ours, SimpleNamespace(**there, **like)
    stack.start, stack.block = stack.start.to(place), stack.block.to(place)
    training = Training(client, stack)
    client.begin(training)
    for number in range(len(training.plan.widths)):
        step = training.plan.at(number)
        with HostBan():
            training.enter(number)
            client.step(training, step)


SLOW_ONES = [pytest.param(own, marks=pytest.mark.slow) for own in ("fedprox", "feddyn")]


@pytest.mark.parametrize("name", ["moon", *SLOW_ONES])
def test_so_it_is_where_clients_keep_weights_to_themselves(name):
    client, tapes, plan = client_of(CLIENTS[name]), Tapes(), MASKS["hold"]
    replayed = rounds(tapes, client, plan, private=True)
    assert not tapes.refused
    plain = rounds(Tapes(refuses=True), client, plan, private=True)
    for ours, theirs in zip(replayed, plain, strict=True):
        assert torch.equal(ours, theirs)
    training = Training(client, keep_apart(stack_of(network(Tapes()), plan)))
    client.begin(training)
    client.step(training, training.plan.at(0))
    with HostBan():
        client.step(training, training.plan.at(1))


def test_where_batches_of_one_are_avoided_all_are_as_long():
    """So that which clients a round has captures no step anew."""
    ours, widths = network(Tapes()), set()
    ours.traits = SimpleNamespace(needs_two="a layer")
    for counts in ([17, 16], [16, 10]):
        training = Training(client_of(), stack_of(ours, MaskPlan(), counts=counts))
        widths |= {training.plan.at(0).rows.shape[1]}
        assert 1 not in training.plan.sizes
    assert widths == {9}


@dataclass(frozen=True)
class Lasso(Local):
    """An algorithm of one's own: an L1 norm, which may grow with the rounds, or look at numbers."""

    grows: bool = False
    looks: bool = False

    def correct(self, training, gradient):
        strength = 1e-3 * training.stack.server_round if self.grows else 1e-3
        if self.looks and float(gradient.abs().max()) > 1:
            strength = 0.0
        gradient.add_(training.weights[: len(gradient)].sign(), alpha=strength)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({}, None),
        ({"grows": True}, "it depends on something that changes from round to round"),
        ({"looks": True}, "it cannot be captured: operation not permitted"),
    ],
)
def test_an_algorithm_of_ones_own_is_captured_only_if_that_is_right(options, why):
    client, tapes = client_of(Lasso, **options), Tapes()
    replayed = rounds(tapes, client, MaskPlan(fixed_ratio=0.4))
    assert (why in tapes.refused[0]) if why else not tapes.refused
    for ours, theirs in zip(
        replayed, rounds(Tapes(refuses=True), client, MASKS["hold"]), strict=True
    ):
        assert torch.equal(ours, theirs)
