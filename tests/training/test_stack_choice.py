"""How many clients are trained as one: by a rule, on a CPU and on a GPU that tests make up."""

import pytest
import torch
from torch import nn

from fedalign.federation.federation import Federation
from fedalign.network.footprint import footprint
from fedalign.network.network import Network
from fedalign.network.stacking import Stacking
from fedalign.settings.config import read
from fedalign.training.stacks import choose_stack

SETTINGS = {"data.max_examples": 200, "client.batch_size": 10}
MIB = 1 << 20


def federation(**settings):
    named = {key.replace("__", "."): value for key, value in settings.items()}
    shallow = {} if "model" in named else {"model.depth": 1}
    return Federation(read(None, SETTINGS | shallow | named))


@pytest.fixture
def gpu(monkeypatch):
    """Let the rule believe in a GPU with this many free MiB."""

    def fake(free):
        memory = (free * MIB, 80 << 30)
        monkeypatch.setattr("fedalign.training.stacks.gpu_memory", lambda _: memory)

    return fake


def test_a_forward_pass_is_counted_exactly():
    linear = nn.Linear(6, 4)
    run = nn.Sequential(linear, nn.ReLU())
    found = footprint(run, linear.weight, linear, torch.zeros(3, 6))
    assert found.multiply_adds == 24
    assert found.activations == 4 * (6 + 4)  # the linear layer's input and the ReLU's output


def test_counting_changes_no_weights_no_random_numbers_and_not_what_runs():
    network = federation(model="resnet20").network
    start, state = network.receive(network.initial).clone(), torch.random.get_rng_state()
    images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    run = network.function_of(2 * start)
    expected = run(images)
    assert network.footprint.multiply_adds == 2_516_608
    assert torch.equal(run(images), expected)
    assert torch.equal(network.receive(network.initial), start)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize(
    ("settings", "size", "reason"),
    [
        ({"simulation__stack": 7}, 7, "set by simulation.stack"),
        ({"model__width": 600}, 46, "0.444 million multiply-adds, and a model has 45,"),
        ({"model__width": 8}, 64, "takes 0.00592 million multiply-adds"),
        ({"model__width": 8000}, 1, "numbers do not fit into a cache"),
        ({"model__width": 600, "client__batch_size": 1000}, 1, "25 keep a core busy"),
        ({"model": "resnet20", "model__norm": "group"}, 1, "takes 25.2 million multiply-adds"),
    ],
)
def test_on_a_cpu_small_models_are_stacked_until_the_caches_are_full(settings, size, reason):
    choice = choose_stack(federation(**settings), 1000)
    assert choice.size == size
    assert reason in choice.reason


def test_on_a_cpu_eight_workers_can_share_the_clients():
    size, reason = choose_stack(federation(), 100)
    assert (size, reason) == (13, "an eighth of 100 clients, so that workers can share them")
    assert choose_stack(federation(), 8).size == 1
    assert choose_stack(federation(), 100, workers=2).size == 13


def test_a_network_that_cannot_be_stacked_is_not(monkeypatch, gpu):
    monkeypatch.setattr(Network, "stacking", Stacking(None, "'fold' cannot be stacked"))
    gpu(10_000)
    size, reason = choose_stack(federation(), 1000)
    assert size == 1
    assert "'fold' cannot be stacked" in reason


def test_on_a_gpu_all_clients_that_fit_are_one_stack(gpu):
    ours = federation()
    each = 4 * 16 * ours.network.layout.size + 40 * ours.network.footprint.activations
    gpu(10_000)
    size, reason = choose_stack(ours, 1000)
    assert size == 1000
    assert reason == f"all clients of a worker: {each / MIB:,.1f} MiB each, room for 7,500 MiB"
    gpu(400 * each / MIB)  # three quarters of it hold 300
    size, reason = choose_stack(ours, 1000)
    assert size == 250
    assert "its 1000 clients in 4 parts" in reason
    gpu(0)
    assert choose_stack(ours, 1000).size == 1


@pytest.mark.parametrize(
    ("client_gpus", "workers", "sharers"), [("auto", 2, 1), (1, 2, 1), (0.5, 4, 2), (0, 2, 2)]
)
def test_workers_share_clients_and_the_gpu(gpu, client_gpus, workers, sharers):
    more = {"simulation__backend": "ray", "simulation__client_gpus": client_gpus}
    ours = federation(**more)
    gpu(10_000)
    size, reason = choose_stack(ours, 1000, workers)
    assert size == 1000 // workers
    assert f"room for {7500 // sharers:,} MiB" in reason
