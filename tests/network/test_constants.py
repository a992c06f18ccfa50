"""Parameters with `requires_grad=False`: no vector has them, and every way to run uses them."""

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from fedalign.data import Dataset
from fedalign.errors import InputError
from fedalign.landscape.files import read
from fedalign.models.cnn import cnn
from fedalign.models.text import char_lstm
from fedalign.models.vit import vit
from fedalign.network.agreement import Trial
from fedalign.network.constants import constants, copied, digest
from fedalign.network.fisher import diagonal_fisher
from fedalign.network.layout import Layout
from fedalign.network.mixtures import Mixtures
from fedalign.network.network import Network
from fedalign.network.stacked import Stacked

IMAGES = {"shape": (1, 18, 18), "classes": 10}


class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.attend = nn.MultiheadAttention(18, 2, batch_first=True)
        self.fc = nn.Linear(324, 10)

    def forward(self, x):
        x = x.flatten(1, 2)
        return self.fc(self.attend(x, x, x)[0].flatten(1))


def fixed(build, *kinds):
    """Return a module whose parameters of these kinds never train."""

    def made():
        torch.manual_seed(0)
        module = build()
        for name, parameter in module.named_parameters():
            parameter.requires_grad_(not any(kind in name for kind in kinds))
        return module

    return made


VIT = {"width": 8, "depth": 2, "heads": 2, "patch": 6}
MODELS = {
    "only the head": fixed(
        lambda: vit(**IMAGES, **VIT), "patches", "token", "pos", "blocks", "nor"
    ),
    "a block": fixed(lambda: vit(**IMAGES, **VIT), "blocks.0", "patches"),
    "only biases": fixed(lambda: cnn(**IMAGES, width=4), "weight"),
    "norms": fixed(
        lambda: nn.Sequential(
            *(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.GroupNorm(2, 4)),
            *(nn.Flatten(), nn.Linear(1024, 10)),
        ),
        "1.",
        "3.weight",
    ),
    "queries": fixed(Attends, "in_proj"),
    "outputs": fixed(Attends, "out_proj"),
    "recurrence": fixed(lambda: char_lstm((9,), 10, width=6), "weight_hh_l0", "embed"),
}


def case(name, count=3, batch=4):
    module = MODELS[name]()
    layout = Layout.of(module)
    assert constants(module)
    block = layout.flatten(module).repeat(count, 1)
    noise = layout.spread(0.02 * torch.randn(count, layout.num_parameters))
    block[:, : layout.parameter_size] += noise
    images = torch.randn(count * batch, 1, 18, 18)
    if name == "recurrence":
        images = torch.randint(0, 10, (count * batch, 9))
    return module, layout, block, images, torch.randint(0, 10, (count, batch))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("vmapped", [False, True])
def test_stacked_models_with_constants_are_each_as_if_alone(name, vmapped):
    if vmapped and name in ("norms", "recurrence"):
        pytest.skip("cannot be vmapped without constants either")
    module, layout, block, images, labels = case(name)
    together, found = block.clone(), torch.full((3, layout.parameter_size), 7.0)
    runner = Stacked(module, layout, vmapped=vmapped)
    losses = runner.gradients(together, images, labels, [4, 4, 4], found)
    for row in range(3):
        alone, gradient = block[row].clone(), torch.zeros(layout.parameter_size)
        layout.bind(module, alone)
        layout.bind_gradients(module, gradient)
        logits = module.train()(images[4 * row : 4 * row + 4])
        loss = functional.cross_entropy(logits, labels[row])
        loss.backward()
        assert losses[row].item() == pytest.approx(loss.item(), rel=1e-4)
        ours, theirs = layout.compact(found[row]), layout.compact(gradient)
        assert (ours - theirs).norm() <= 1e-2 * theirs.norm()
        assert theirs.norm() > 0
    assert all(p.grad is None for p in module.parameters() if not p.requires_grad)


@pytest.mark.parametrize(
    ("name", "spread"),
    [
        ("only the head", False),
        ("only the head", True),
        ("a block", True),  # it adds what differs between mixtures to what does not
        ("only biases", False),
        ("norms", False),
    ],
)
def test_mixtures_with_constants_are_each_as_if_alone(name, spread):
    module, layout, block, images, _ = case(name)
    shares = torch.tensor([[1, 0, 0], [0.2, 0.3, 0.5], [0, -0.5, 1.5], [0.5, 0.5, 0]])
    mixes = Mixtures(module, layout, spread=spread)
    mixes.load(block, shares)
    for vector, found in zip(shares @ block, mixes.logits(images), strict=True):
        layout.bind(module, vector)
        torch.testing.assert_close(found, module.eval()(images), rtol=1e-3, atol=1e-4)


def data():
    images = torch.randint(0, 256, (6, 1, 18, 18), dtype=torch.uint8)
    return Dataset(images, torch.arange(6), 10, (0.3,), (0.2,), "made up")


def network(name):
    return Network(MODELS[name](), data(), torch.device("cpu"))


def test_no_vector_or_message_has_a_constant_and_the_state_has_all():
    built = network("only the head")
    assert [entry.name for entry in built.layout.entries] == ["fc.weight", "fc.bias"]
    assert list(built.initial) == ["fc.weight", "fc.bias"]
    state = built.layout.to_state(built.initial, built.module)
    fresh = MODELS["only the head"]()
    assert {name: array.shape for name, array in state.items()} == {
        name: tuple(tensor.shape) for name, tensor in fresh.state_dict().items()
    }
    for name, tensor in fresh.state_dict().items():
        assert np.array_equal(state[name].numpy(), tensor.numpy())


def test_copies_share_constants_and_nothing_else():
    built = network("a block")
    twin = built.twin()
    for (name, own), other in zip(
        built.module.named_parameters(), twin.module.parameters(), strict=True
    ):
        assert (own is other) == name.startswith(("blocks.0", "patches"))
    assert digest(copied(built.module)) == digest(built.module) != digest(network("queries").module)
    assert digest(vit(**IMAGES, **VIT)) == ""


@pytest.mark.parametrize("name", ["only the head", "a block"])
def test_a_network_with_constants_is_stacked_and_mixed(name):
    built = network(name)
    assert built.stacking.reason == ""
    assert built.mixing.reason == ""


def test_activations_do_not_count_constants():
    sizes = {}
    for hidden in (10, 5000):
        body = fixed(
            lambda hidden=hidden: nn.Sequential(
                nn.Flatten(), nn.Linear(324, hidden), nn.Linear(hidden, 10), nn.Linear(10, 10)
            ),
            "1.",
            "2.",
        )()
        sizes[hidden] = Network(body, data(), torch.device("cpu")).footprint.activations
    assert sizes[10] == sizes[5000] == 4 * 10  # the input of the last layer


def test_fisher_information_is_of_what_trains():
    built = network("only the head")
    found = diagonal_fisher(built, built.receive(built.initial), data().at([0]), "empirical")
    assert found.shape == (built.layout.parameter_size,)
    assert found.norm() > 0


def test_neurons_with_constants_stay_where_they_are():
    names = {group.name for group in network("a block").symmetry}
    assert "blocks.1.fc1" in names
    assert not any(name.startswith(("tokens", "blocks.0")) for name in names)
    assert network("only the head").exchangeable.reason.endswith("weights that never train")


def test_a_file_with_other_constants_is_not_this_network(tmp_path):
    built, file = network("only the head"), tmp_path / "model.safetensors"
    state = {f"module.{name}": tensor for name, tensor in built.module.state_dict().items()}
    state["module.fc.bias"] = torch.ones(10)
    save_file(state, file)
    assert torch.equal(built.layout.compact(read(file, built))[-10:], torch.ones(10))
    save_file(state | {"module.norm.bias": torch.ones(8)}, file)
    with pytest.raises(InputError, match=r"'norm.bias' never trains, and is not as in the network"):
        read(file, built)
    del state["module.norm.bias"]
    save_file(state, file)
    with pytest.raises(InputError, match=r"the file has no 'norm.bias'"):
        read(file, built)


def test_tied_constants_have_all_their_names():
    module = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2))
    module[1].weight = module[0].weight
    module[0].weight.requires_grad_(False)
    layout = Layout.of(module)
    assert [e.name for e in layout.parameters] == ["0.bias", "1.bias", "2.weight", "2.bias"]
    record = ArrayRecord({e.name: Array(np.zeros(e.shape, np.float32)) for e in layout.entries})
    state = layout.to_state(record, module)
    assert set(state) == set(module.state_dict())


def test_a_trial_tells_when_constants_are_not_shared_well():
    """A module that mixes the examples of a batch through a constant is not stacked."""

    class Mixes(nn.Module):
        def __init__(self):
            super().__init__()
            self.shift = nn.Parameter(torch.ones(1), requires_grad=False)
            self.fc = nn.Linear(324, 10)

        def forward(self, x):
            return self.fc(x.flatten(1) + self.shift * x.mean())

    built = Network(Mixes(), data(), torch.device("cpu"))
    assert isinstance(built._trial, Trial)
    assert "losses differ" in built.stacking.reason
