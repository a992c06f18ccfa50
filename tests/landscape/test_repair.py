import pytest
import torch
from torch import nn

from fedalign.landscape.evaluator import Evaluator
from fedalign.landscape.paths import Path, grid, repaired
from fedalign.landscape.repair import Repair, moments
from fedalign.network.network import Network
from fedalign.settings.sections import Evaluation

MODULES = {
    "linear": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 5), nn.ReLU(), nn.Linear(5, 3)
    ),
    "convolution": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3)
    ),
    "group norm": lambda: nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(),
        nn.Linear(64, 3),
    ),
    "layer norm": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(36, 8), nn.LayerNorm(8), nn.GELU(), nn.Linear(8, 3)
    ),
}  # fmt: skip
MIX = {"a": 0.2, "b": 0.5, "c": 0.3}


def build(kind, data):
    torch.manual_seed(0)
    module = MODULES[kind]()
    network = Network(module, data, torch.device("cpu"))
    start = network.layout.to_vector(network.initial)
    models = {name: start + 0.5 * torch.randn(start.shape) for name in MIX}
    return network, models, sum(MIX[name] * model for name, model in models.items())


def hidden(network, vector, data):
    """Moments of every repaired layer's output, of the model as it now is."""
    axes = {nn.Linear: -1, nn.Conv2d: 1, nn.GroupNorm: 1, nn.LayerNorm: -1}
    names = [n for n, m in network.module.named_modules() if type(m) in axes and m.bias is not None]
    out = network.watch(vector, data.images, names)
    return [moments(out[name], axes[type(network.module.get_submodule(name))]) for name in names]


@pytest.mark.parametrize("kind", MODULES)
def test_every_hidden_layer_has_the_mean_moments_of_the_parts(kind, data):
    network, models, mixed = build(kind, data)
    mended = hidden(network, Repair(network, models, data.images)(mixed, MIX), data)
    parts = {name: hidden(network, model, data) for name, model in models.items()}
    for layer, found in enumerate(mended[:-1]):
        for own in (0, 1):
            wanted = sum(share * parts[name][layer][own] for name, share in MIX.items())
            torch.testing.assert_close(found[own], wanted, rtol=1e-3, atol=1e-4)
    before = hidden(network, mixed, data)
    assert not torch.allclose(before[0].std, mended[0].std, rtol=1e-2)


def test_the_last_layer_stays(data):
    network, models, mixed = build("linear", data)
    mended = Repair(network, models, data.images)(mixed, MIX)
    last = network.layout.parameters[-2].start
    assert torch.equal(mended[last:], mixed[last:])
    assert not torch.equal(mended[:last], mixed[:last])


def test_a_model_alone_stays_as_it_is(data):
    network, models, _ = build("linear", data)
    assert Repair(network, models, data.images)(models["a"], {"a": 1.0}) is models["a"]


def test_a_mix_of_equal_models_stays_what_it_is(data):
    network, models, _ = build("linear", data)
    same = {"a": models["a"], "b": models["a"]}
    mended = Repair(network, same, data.images)(models["a"], {"a": 0.5, "b": 0.5})
    torch.testing.assert_close(mended, models["a"], rtol=1e-4, atol=1e-5)


def test_a_neuron_that_never_changes_stays_finite(data):
    network, models, _ = build("linear", data)
    weight = network.layout.parameters[0]
    for model in models.values():
        weight.view(model)[2] = 0
    mixed = sum(MIX[name] * model for name, model in models.items())
    mended = Repair(network, models, data.images)(mixed, MIX)
    assert torch.isfinite(mended).all()
    assert not weight.view(mended)[2].any()


def test_repaired_paths_have_the_ends_of_the_plain_ones(data):
    network, models, _ = build("linear", data)
    paths = [Path("global", "a", "c", grid(5)), Path("clients:a-b", "a", "b", grid(5))]
    paths += repaired(paths[1:])
    assert [path.name for path in paths] == ["global", "clients:a-b", "repaired:a-b"]
    look = Evaluator(network, data, data, Evaluation(alphas=5))
    _, plain, mended = look.curves(models, paths)
    for place, (one, two) in enumerate(zip(plain.losses, mended.losses, strict=True)):
        same = one == pytest.approx(two, rel=1e-5)  # many at once, and alone
        assert same == (place in (0, 4))
