"""Passes over a data set that are captured once: the same scores as without, from fixed memory."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close as close

from fedalign.data import Dataset
from fedalign.models.mlp import mlp
from fedalign.network.device import side_stream
from fedalign.network.mixtures import Mixtures
from fedalign.network.network import Network
from fedalign.network.scorer import Scorer
from tests.tape import HostBan, Tapes

SHAPE = {"shape": (1, 8, 8), "classes": 10}
SHARES = torch.tensor([[1.0, 0, 0], [0.25, 0.75, 0], [0.2, 0.3, 0.5], [0, 0, 1.0]])
MODELS = {
    "mlp": lambda: mlp(**SHAPE, width=20),
    "batch norm": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)
    ),
    "dropout": lambda: nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(64, 10)),
}


@pytest.fixture(params=MODELS)
def network(request):
    torch.manual_seed(0)
    images = torch.randint(0, 256, (50, 1, 8, 8)).to(torch.uint8)
    data = Dataset(images, torch.arange(50) % 10, 10, (0.3,), (0.2,), "made up")
    found = Network(MODELS[request.param](), data, torch.device("cpu"))
    found.__dict__["mixes"] = Mixtures(found.module, found.layout) if found.stacked else None
    return found, data


def replaying(network, *refuses):
    found = Scorer(*network, batch_size=20)
    found.graphs = Tapes(*refuses)
    return found


def blocks(network, count):
    start = network.layout.to_vector(network.initial)
    for seed in range(count):
        noise = torch.randn(3, len(start), generator=torch.Generator().manual_seed(seed))
        yield start + 0.05 * noise.abs()


@pytest.mark.parametrize("refuses", [False, True])
def test_replays_give_the_scores_of_plain_passes(network, refuses):
    captured = replaying(network, refuses)
    for block in blocks(network[0], 5):
        expected = network[0].scores(block[0], network[1], 20)
        assert torch.equal(captured.scores(block[0]), expected)
        for own, shares in ((block, None), (block, SHARES), (block[:2], SHARES[:2, :2])):
            if network[0].mixes is not None:
                expected = network[0].evaluate_mixes(own, shares, network[1], 20)
                # Another number of mixtures may be summed in another order.
                close(captured.evaluate_mixes(own, shares), expected, rtol=1e-6, atol=0)
    shapes = 1 if network[0].mixes is None else 3  # few for any number of models and mixtures
    assert captured.graphs.tapes == (0 if refuses else shapes)
    assert bool(captured.graphs.refused) == refuses


@pytest.mark.parametrize("network", ["batch norm"], indirect=True)
def test_where_steps_are_captured_convolutions_are_measured_by_the_kernels_of_stacks(
    network, monkeypatch
):
    ours, data = network
    blocked = list(blocks(ours, 2))
    expected = [ours.evaluate(vector, data, 20) for block in blocked for vector in block]
    ours.__dict__["graphs"] = Tapes()  # as on a GPU
    monkeypatch.delattr(ours._plain.__class__, "run")
    found = [ours.evaluate(vector, data, 20) for block in blocked for vector in block]
    close(torch.tensor(found), torch.tensor(expected))


def test_without_room_for_a_graph_a_pass_runs_plainly(network, monkeypatch, caplog):
    def full(*_):
        raise torch.OutOfMemoryError

    captured = replaying(network)
    monkeypatch.setattr(captured.graphs, "_captured", full)
    for block in blocks(network[0], 3):
        assert torch.equal(captured.scores(block[0]), network[0].scores(block[0], network[1], 20))
    assert captured.graphs is None
    assert "no room for graphs" in caplog.text


def test_scores_that_have_not_been_read_stay(network):
    captured = replaying(network)
    kept = [(captured.scores(block[0]), block[0]) for block in blocks(network[0], 5)]
    for found, vector in kept:
        assert torch.equal(found, network[0].scores(vector, network[1], 20))


def test_other_use_of_the_network_between_replays_changes_nothing(network):
    captured = replaying(network)
    for block in blocks(network[0], 5):
        network[0].recalibrate(block[1], network[1].images, 20)
        assert torch.equal(captured.scores(block[0]), network[0].scores(block[0], network[1], 20))


def test_a_pass_waits_for_nothing(network):
    (block,) = blocks(network[0], 1)
    with HostBan() as ban:
        network[0].scores(block[0], network[1], 20)
        if network[0].mixes is not None:
            network[0].evaluate_mixes(block, SHARES, network[1], 20)
    assert ban.launches


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_replays_on_a_stream_beside_the_default_one():
    device = torch.device("cuda")
    images = torch.randint(0, 256, (5000, 1, 8, 8)).to(torch.uint8)
    data = Dataset(images, torch.arange(5000) % 10, 10, (0.3,), (0.2,), "made up").to(device)
    network = Network(MODELS["mlp"](), data, device)
    scorer = Scorer(network, data)
    with torch.cuda.stream(side_stream(device)):
        for block in blocks(network, 5):
            found, expected = scorer.scores(block[0]), network.scores(block[0], data)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
            expected = network.evaluate_mixes(block, SHARES, data)
            found = scorer.evaluate_mixes(block, SHARES)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)
    assert scorer.graphs.refused == []
