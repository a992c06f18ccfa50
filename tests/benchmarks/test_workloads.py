"""The workloads, and three ways to run them that must come to the same model."""

import os

import numpy as np
import pytest
import torch

from fedalign.settings.config import read

SMALL = {
    **{"data.size": 200, "data.tests": 50, "num_clients": 10, "clients_per_round": 3},
    **{"rounds": 2, "device": "cpu"},
}


@pytest.fixture
def config():
    from workloads import settings_of

    return lambda name, **more: read(None, settings_of(name) | SMALL | more)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("W1", 878_538), ("W2", 50_890), ("W3", 61_706), ("CIFAR", 1_626_442)],
)
def test_a_workloads_network_has_the_size_that_is_said(config, name, parameters):
    from plain_loop import initial

    from fedalign.federation.federation import Federation

    module = initial(Federation(config(name)))
    assert sum(own.numel() for own in module.parameters()) == parameters


def test_settings_may_stand_anywhere_on_the_command_line():
    from workloads import split

    words = ["W2", "--engines", "plain", "simulation.stack=all", "--rounds", "4", "device=cpu"]
    assert split(words) == (
        ["simulation.stack=all", "device=cpu"],
        ["W2", "--engines", "plain", "--rounds", "4"],
    )
    assert split(["--out=here.md"]) == ([], ["--out=here.md"])


def test_what_a_run_can_import_already_it_still_can():
    from processes import HERE, environment

    assert environment({"PYTHONPATH": "/mine", "A": "b"}) == {
        "PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE), "/mine"]),
        "A": "b",
    }
    assert environment({})["PYTHONPATH"].split(os.pathsep) == [str(HERE.parent), str(HERE)]


def test_device_reaches_the_plain_loop(config):
    from plain_loop import rounds_of

    first = next(rounds_of(config("W2")))
    assert next(first[2].parameters()).device == torch.device("cpu")
    with pytest.raises(Exception, match="PyTorch sees"):
        next(rounds_of(config("W2", device="cuda:99")))


def test_the_plain_loop_averages_clients_by_their_examples(config):
    """A second implementation of one round, with gradients from torch.func."""
    from plain_loop import Orders, floats, initial, rounds_of

    from fedalign.federation.federation import Federation

    given = config("W1", rounds=1, **{"partition.alpha": 0.1, "client.batch_size": 8})
    federation = Federation(given)
    module, data = initial(federation), federation.train
    start = {key: value.detach().clone() for key, value in module.state_dict().items()}
    orders = Orders.of(federation).of_round(1)
    assert len(set(map(len, orders))) > 1

    def loss(weights, rows):
        logits = torch.func.functional_call(module, weights, floats(data.images[rows]))
        return torch.nn.functional.cross_entropy(logits, data.labels[rows])

    models = []
    for order in orders:
        own, moving = dict(start), {key: torch.zeros_like(value) for key, value in start.items()}
        for rows in torch.from_numpy(order).split(8):
            found = torch.func.grad(loss)(own, rows)
            moving = {key: 0.9 * moving[key] + found[key] for key in own}
            own = {key: own[key] - 0.05 * moving[key] for key in own}
        models.append(own)
    ((_, _, averaged),) = rounds_of(given)
    total = sum(map(len, orders))
    for key, value in averaged.state_dict().items():
        mean = sum(m[key] * len(o) / total for m, o in zip(models, orders, strict=True))
        torch.testing.assert_close(value, mean, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["W2", "W3"])
@pytest.mark.parametrize("partition", ["iid", "dirichlet"])
def test_jax_comes_to_the_model_of_the_plain_loop(config, name, partition):
    pytest.importorskip("jax")
    import jax_round
    import plain_loop

    given = config(name, partition=partition)
    *_, (_, _, model) = plain_loop.rounds_of(given)
    *_, (_, _, weights) = jax_round.rounds_of(given)
    theirs = [np.asarray(own) for pair in weights for own in pair]
    for own, other in zip(model.parameters(), theirs, strict=True):
        np.testing.assert_allclose(own.detach().numpy(), other, atol=1e-5)


def test_jax_pads_short_clients():
    pytest.importorskip("jax")
    from jax_round import ROUNDED, padded

    index, counts = padded([np.arange(5), np.array([7, 8])], batch=2)
    assert index.shape == (2, ROUNDED, 2)
    assert index[0, :3].ravel()[:5].tolist() == [0, 1, 2, 3, 4]
    assert counts[:, :4].tolist() == [[2, 2, 1, 0], [2, 0, 0, 0]]
    assert padded([np.arange(4)] * 2, batch=2)[0].shape == (2, 2, 2)
