import threading
from itertools import count

import pytest
import torch
from torch import nn

from fedalign.data import Dataset
from fedalign.landscape.evaluator import Evaluator
from fedalign.landscape.paths import Path, grid
from fedalign.models.cnn import cnn
from fedalign.models.mlp import mlp
from fedalign.models.resnet import resnet20
from fedalign.network.device import torch_threads
from fedalign.network.layout import Layout
from fedalign.network.mixtures import Mixtures
from fedalign.network.network import Network
from fedalign.settings.sections import Evaluation

SHAPE = {"shape": (1, 28, 28), "classes": 10}
MODELS = {
    "mlp": lambda: mlp(**SHAPE, width=20),
    "cnn": lambda: cnn(**SHAPE, width=4),
    "resnet20 batch": lambda: resnet20(**SHAPE, norm="batch"),
    "resnet20 group": lambda: resnet20(**SHAPE, norm="group"),
    "logistic": lambda: mlp(**SHAPE, depth=0),
    "no bias": lambda: nn.Sequential(nn.Flatten(), nn.Linear(784, 9, bias=False), nn.ReLU(),
                                     nn.Linear(9, 10)),
    "relu first": lambda: nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Linear(784, 10)),
    "tokens": lambda: nn.Sequential(nn.Flatten(1, 2), nn.Linear(28, 5), nn.ReLU(), nn.Flatten(),
                                    nn.Linear(140, 10)),
    "norms first": lambda: nn.Sequential(nn.BatchNorm2d(1), nn.GroupNorm(1, 1),
                                         nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(1352, 10)),
}  # fmt: skip
SHARES = torch.tensor([[1, 0, 0], [0, 0, 1], [0.5, 0.5, 0], [0.2, 0.3, 0.5], [-0.5, 0, 1.5]])


def case(build, models=3):
    torch.manual_seed(0)
    module = build()
    layout = Layout.of(module)
    block = layout.flatten(module).repeat(models, 1)
    count, buffers = layout.parameter_size, layout.size - layout.parameter_size
    block[:, :count] += layout.spread(0.02 * torch.randn(models, layout.num_parameters))
    block[:, count:] += torch.rand(models, buffers)
    return module, layout, block, torch.randn(6, 1, 28, 28)


@torch.no_grad()
def alone(module, layout, vector, images):
    layout.bind(module, vector.clone())
    return module.eval()(images)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("shares", [SHARES, SHARES[3:4], None])
def test_each_mix_as_if_alone(name, shares):
    module, layout, block, images = case(MODELS[name])
    mixes, kept = Mixtures(module, layout), images.clone()
    mixes.load(block, shares)
    together = mixes.logits(images)
    vectors = block if shares is None else shares @ block
    assert together.shape == (len(vectors), 6, 10)
    for vector, found in zip(vectors, together, strict=True):
        torch.testing.assert_close(
            found, alone(module, layout, vector, images), rtol=1e-3, atol=1e-3
        )
    assert torch.equal(images, kept)


def test_other_models_of_another_number_can_be_loaded():
    module, layout, block, images = case(MODELS["mlp"])
    mixes = Mixtures(module, layout)
    for shares in (SHARES, SHARES[:2], SHARES.flip(0)):
        mixes.load(block, shares)
        for vector, found in zip(shares @ block, mixes.logits(images), strict=True):
            torch.testing.assert_close(found, alone(module, layout, vector, images))


@pytest.fixture
def network():
    torch.manual_seed(0)
    images = torch.randint(0, 256, (50, 1, 28, 28)).to(torch.uint8)
    data = Dataset(images, torch.arange(50) % 10, 10, (0.3,), (0.2,), "made up")
    return Network(mlp(**SHAPE, width=20), data, torch.device("cpu")), data


def curves(network, data, models):
    paths = [Path(a + b, a, b, grid(5)) for a, b in ("ab", "bc", "ca", "dd")]
    return Evaluator(network, data, data, Evaluation(batch_size=20)).curves(models, paths)


def test_an_evaluator_measures_the_same_one_by_one_or_together(network, monkeypatch):
    network, data = network
    start = network.layout.to_vector(network.initial)
    models = {name: start + 0.1 * torch.randn(start.shape) for name in "abcd"}
    monkeypatch.setattr("fedalign.landscape.evaluator.MAX_MIXES", 7)  # groups, the last one smaller
    together = curves(network, data, models)
    network.__dict__["mixes"] = None
    for one, other in zip(curves(network, data, models), together, strict=True):
        assert one.losses == pytest.approx(other.losses, rel=1e-5)
        assert list(one.accuracies) == list(other.accuracies)
    assert len({*map(float, together[0].losses)}) == 5


def test_batchnorm_is_re_estimated_on_each_mix_also_together(network):
    """What a GPU runs, on the CPU."""
    data = network[1]
    network = Network(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, 2),
                      nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(576, 10)),
        data, torch.device("cpu"),
    )  # fmt: skip
    start = network.layout.to_vector(network.initial)
    models = {name: start + 0.1 * torch.randn(start.shape) for name in "abcd"}
    alone = curves(network, data, models)
    network.__dict__["mixes"] = Mixtures(network.module, network.layout)
    for one, other in zip(alone, curves(network, data, models), strict=True):
        assert one.losses == pytest.approx(other.losses, rel=1e-3)
    assert len({*map(float, alone[0].losses)}) == 5


def test_a_model_that_has_diverged_spoils_no_other(network):
    network, data = network
    start = network.layout.to_vector(network.initial)
    models = {name: start + 0.1 * torch.randn(start.shape) for name in "abcd"}
    whole = curves(network, data, models)
    models["c"] = models["c"] * float("nan")
    spoilt = curves(network, data, models)
    assert spoilt[0].losses == pytest.approx(whole[0].losses, rel=1e-6)
    assert [bool(loss == loss) for loss in spoilt[1].losses] == [True, *[False] * 4]


def test_batches_can_be_shared_out_to_threads(network, monkeypatch):
    network, data = network
    block = network.layout.to_vector(network.initial).repeat(3, 1) + 0.1 * torch.randn(3, 1)
    monkeypatch.setattr("fedalign.network.evaluation.WORTH_A_THREAD", 0)
    run, both, calls = network.mixes.twin.fc1.forward, threading.Barrier(2, timeout=10), count()

    def meet(x):
        if next(calls):  # the first batch of 18 goes alone; another and the 14 left meet
            both.wait()
        return run(x)

    with torch_threads(1):
        one = network.evaluate_mixes(block, SHARES, data, 18)
        monkeypatch.setattr(network.mixes.twin.fc1, "forward", meet)
        two = network.evaluate_mixes(block, SHARES, data, 18, threads=2)
    assert torch.equal(one, two)
    assert len({*one[:, 0].tolist()}) == len(SHARES)


def test_convolutions_gain_nothing_on_a_cpu(network):
    network, data = network
    assert network.mixes is not None
    assert Network(cnn(**SHAPE, width=4), data, torch.device("cpu")).mixes is None
