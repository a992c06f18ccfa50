"""Clients of one stack that differ in learning rate, weight decay, epochs and label smoothing."""

from dataclasses import dataclass, replace

import pytest
import torch

from clients.fedprox import FedProx
from clients.local import Local
from fedalign.masks.plan import MaskPlan
from fedalign.rng import rng
from tests.clients.test_replayed import client_of, network, stack_of
from tests.tape import Tapes

OWN = {  # largest number of steps first
    "epochs": [3, 2, 2, 2, 2, 2, 2, 2, 1],
    "lr": [0.1, 0.05, 0.02, 0.1, 0.05, 0.1, 0.1, 0.2, 0.1],
    "lr_within_round": ["linear", *["constant"] * 7, "cosine"],
    "label_smoothing": [0.0, 0.1, 0.2, 0.0, 0.3, 0.0, 0.1, 0.2, 0.4],
    "weight_decay": [0.0, 0.01, 0.02, 0.0, 0.3, 0.0, 0.1, 0.2, 0.4],
}


def trained(client, place, number, algorithms=(), only=None):
    """The models after a round, and what a client reports; of client `only` or of all nine."""
    stack = stack_of(place, MaskPlan(fixed_ratio=0.4), number)
    if only is not None:
        stack = replace(
            stack,
            block=stack.block[:1],
            rows=stack.rows[only : only + 1],
            streams=[rng(0, "batches", number, only)],
            plans=stack.plans[only : only + 1],
        )
    stack.algorithms = algorithms
    result = client.train(stack)
    return stack.block, result.losses, result.metrics["normalized_steps"]


@pytest.mark.parametrize(
    ("kind", "optimizer"),
    [
        (Local, "sgd"),
        (FedProx, "adam"),
        pytest.param(Local, "adamw", marks=pytest.mark.slow),
        pytest.param(FedProx, "sgd", marks=pytest.mark.slow),
    ],
)
def test_a_stack_of_different_clients_is_each_of_them_alone(kind, optimizer):
    """Plainly and replayed; a number that all have in a round does not stay in what is replayed."""
    common = client_of(kind, optimizer=optimizer)
    own = [
        replace(common, **dict(zip(OWN, values, strict=True)))
        for values in zip(*OWN.values(), strict=True)
    ]
    alike = [[replace(common, weight_decay=decay)] * 9 for decay in (0.1, 0.5)]
    tapes = Tapes()
    replayed, plain, far = network(tapes), network(), 2e-5 if optimizer == "sgd" else 0.01
    for number, algorithms in enumerate([own, *alike, own], 1):
        both = [trained(common, place, number, algorithms) for place in (replayed, plain)]
        torch.testing.assert_close(*both, rtol=2e-4, atol=far)
        for k in (0, 4, 8):
            alone = trained(algorithms[k], plain, number, only=k)
            stacked = [values[k : k + 1] for values in both[1]]
            torch.testing.assert_close(list(alone), stacked, rtol=2e-4, atol=far)
    assert not tapes.refused


def test_an_algorithm_of_ones_own_is_stacked_with_others_only_if_it_says_so():
    @dataclass(frozen=True)
    class Silent(Local):
        """It may read any option from `self`."""

    assert Silent.stacked_options == ()
    assert "lr" in FedProx.stacked_options
