"""Exchanging neurons changes no logit, and no hidden neuron is forgotten."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedalign.errors import InputError
from fedalign.models.cnn import cnn
from fedalign.models.lenet import lenet5
from fedalign.models.mlp import mlp
from fedalign.models.resnet import resnet20
from fedalign.models.symmetry import Group, Place, split, symmetry
from fedalign.models.text import char_transformer
from fedalign.models.vgg import vgg
from fedalign.models.vit import vit
from fedalign.network.device import torch_threads
from fedalign.network.layout import Layout
from fedalign.network.permutations import permute, shuffled

SHAPE = (2, 18, 18)
MODELS = {
    "mlp": lambda: mlp(SHAPE, 5, depth=3, width=7),
    "no hidden layer": lambda: mlp(SHAPE, 5, depth=0),
    "cnn": lambda: cnn(SHAPE, 5, width=3),
    "lenet5": lambda: lenet5(SHAPE, 5),
    **{
        f"resnet20, {n}": lambda n=n: resnet20(SHAPE, 5, norm=n) for n in ("none", "batch", "group")
    },
    "vgg": lambda: vgg(SHAPE, 5, width=8),
    "vgg, batch": lambda: vgg(SHAPE, 5, width=8, norm="batch"),
    "vgg, group": lambda: vgg(SHAPE, 5, width=8, norm="group"),
    "vit": lambda: vit(SHAPE, 5, patch=6, width=12, depth=2, heads=3),
    "char-transformer": lambda: char_transformer((9,), 5, width=12, depth=2, heads=3),
    "chain with norms": lambda: nn.Sequential(
        nn.Conv2d(2, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Sequential(nn.Conv2d(8, 12, 3), nn.GroupNorm(3, 12), nn.GELU(), nn.AvgPool2d(2)),
        nn.Flatten(),
        nn.Dropout(0.0),
        nn.Linear(12 * 49, 6),
        nn.Tanh(),
        nn.Linear(6, 5),
    ),
}


@pytest.fixture(autouse=True)
def one_thread():
    """A second one costs more than it brings on networks of this size."""
    with torch_threads(1):
        yield


def built(name, seed=0):
    torch.manual_seed(seed)
    module = MODELS[name]().double()
    for buffer in module.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 2)
    for entry in module.parameters():
        nn.init.normal_(entry, std=0.3 if entry.ndim == 1 else entry[0].numel() ** -0.5)
    return module


def with_weights(module, vector):
    layout = Layout.of(module.float())
    module.double()
    for entry, tensor in zip(layout.entries, layout._tensors(module), strict=True):
        tensor.data = entry.view(vector).clone()
    return module


def flat(module):
    layout = Layout.of(module.float())
    module.double()
    parts = [t.detach().double() for t in layout._tensors(module)]
    vector = torch.empty(layout.size, dtype=torch.float64)
    for entry, part in zip(layout.entries, parts, strict=True):
        entry.view(vector).copy_(part)
    return layout, vector


@pytest.mark.parametrize("name", MODELS)
@settings(max_examples=3)
@given(seed=st.integers(0, 2**31))
def test_exchanged_neurons_change_no_logit(name, seed):
    module = built(name, seed)
    layout, vector = flat(module)
    other = shuffled(layout, symmetry(module), np.random.default_rng(seed), vector)
    images = torch.randn(4, *SHAPE, dtype=torch.float64)
    if name.startswith("char"):
        images = torch.randint(0, 5, (4, 9))
    for mode in (True, False):
        before = with_weights(module.train(mode), vector)(images)
        after = with_weights(module.train(mode), other)(images)
        torch.testing.assert_close(after, before, rtol=1e-6, atol=1e-8)
    hidden = len(symmetry(module)) > 0
    assert torch.equal(other, vector) is not hidden


def without(group, number):
    """Leave out one of the places that a group owns."""
    return replace(group, places=group.places[:number] + group.places[number + 1 :])


def astray(group, number):
    """Take the neurons of one place in another order than those of all others."""
    own = group.places[number]
    wrong = replace(own, at=own.at[::-1])
    return replace(group, places=(*group.places[:number], wrong, *group.places[number + 1 :]))


@pytest.mark.parametrize("name", [name for name in MODELS if name != "no hidden layer"])
def test_a_table_with_a_mistake_changes_logits(name):
    module = built(name).eval()
    layout, vector = flat(module)
    draw = torch.Generator().manual_seed(0)
    images = torch.randn(2, *SHAPE, dtype=torch.float64, generator=draw)
    if name == "char-transformer":
        images = torch.randint(0, 5, (4, 9), generator=draw)
    before, stream = with_weights(module, vector)(images), np.random.default_rng(0)
    places = [(g, i) for g in symmetry(module) if g.size > 2 for i in range(len(g.places))]
    for place in stream.permutation(len(places))[:12]:
        group, number = places[place]
        order = np.roll(np.arange(group.size), 1)
        for mistaken, changes in (
            (group, False),
            (without(group, number), True),
            (astray(group, number), True),
        ):
            other = permute(layout, mistaken, order, vector)
            after = with_weights(module, other)(images)
            assert torch.allclose(after, before, rtol=1e-6, atol=1e-8) is not changes, (
                group.name,
                group.places[number].tensor,
            )


@pytest.mark.parametrize("name", MODELS)
def test_what_moves_is_a_permutation_of_everything_hidden(name):
    module = built(name)
    layout, vector = flat(module)
    index = torch.arange(len(vector))
    for group in symmetry(module):
        moved = permute(layout, group, np.roll(np.arange(group.size), 1), index)
        assert torch.equal(torch.full_like(index, -1).scatter_(0, moved, moved), index)
    groups = symmetry(module)
    owned = {place.tensor for group in groups for place in group.places}
    hidden = [e.name for e in layout.entries if len(groups)]
    head = layout.parameters[-1].name  # the classes' own bias stays
    assert owned == set(hidden) - {head}


def test_every_output_of_a_hidden_layer_is_in_a_group():
    for name in MODELS:
        module = built(name)
        owners = {}
        for group in symmetry(module):
            for place in group.places:
                if place.axis == 0:
                    owners.setdefault(place.tensor, []).extend(place.at.ravel().tolist())
        shapes = {k: v.shape for k, v in module.state_dict().items()}
        for tensor, at in owners.items():
            times = 2 if ".qkv." in tensor else 1  # of a head, and inside it
            assert sorted(at) == sorted([*range(shapes[tensor][0])] * times), (name, tensor)


def test_a_mlp_by_hand():
    first, second = symmetry(mlp((1, 2, 2), 3, depth=2, width=5))
    places = [(p.tensor, p.axis, p.at.tolist()) for p in first.places]
    each = [[i] for i in range(5)]
    assert places == [("fc1.weight", 0, each), ("fc1.bias", 0, each), ("fc2.weight", 1, each)]
    assert (second.name, second.size) == ("fc2", 5)
    assert (second.seen.module, second.seen.axis) == ("relu2", 1)


def test_behind_a_flatten_a_channel_is_several_columns():
    *_, last, _ = symmetry(cnn((1, 20, 20), 3, width=2))  # fc1 is the last, conv3 before it
    fed = next(place for place in last.places if place.tensor == "fc1.weight")
    side = ((20 - 2) // 2 - 2) // 2 - 2
    assert fed.axis == 1
    assert fed.at.tolist() == np.arange(4 * side * side).reshape(4, -1).tolist()


def test_channels_of_the_first_stage_move_with_the_shortcuts():
    groups = {group.name: group for group in symmetry(resnet20(SHAPE, 5))}
    at = {place.tensor: place.at.ravel() for place in groups["stage1"].places if place.axis == 0}
    assert at["blocks.0.conv2.weight"].tolist() == list(range(16))
    assert at["blocks.3.conv2.weight"].tolist() == list(range(8, 24))
    assert at["blocks.6.conv2.weight"].tolist() == list(range(24, 40))
    assert [groups[f"stage{i}"].size for i in (1, 2, 3)] == [16, 16, 32]


def test_group_norm_keeps_neurons_of_different_groups_apart():
    whole = Group("x", 6, (Place("w", 0, np.arange(12).reshape(6, 2)),))
    one, two = split(whole, np.array([0, 1, 0, 1, 0, 0]))
    assert (one.size, two.size) == (4, 2)
    assert two.places[0].at.tolist() == [[2, 3], [6, 7]]


def test_of_an_unknown_module_nothing_is_known():
    class Odd(nn.Module):
        pass

    tied = nn.Linear(4, 4)
    assert symmetry(Odd()) == ()
    assert symmetry(nn.Sequential(nn.Linear(4, 4), nn.Softmax(1), nn.Linear(4, 2))) == ()
    assert symmetry(nn.Sequential(tied, nn.ReLU(), tied)) == ()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (Place("fc9.weight", 0, np.arange(4)[:, None]), "no tensor 'fc9.weight'; did you mean"),
        (Place("fc1.weight", 0, np.arange(5)[:, None]), "4 neurons, (5, 1) positions on axis 0"),
        (Place("fc1.weight", 0, np.arange(1, 5)[:, None]), "of 'fc1.weight' (4, 3)"),
        (Place("fc1.weight", 2, np.arange(4)[:, None]), "positions on axis 2"),
        (Place("fc1.weight", 0, np.array([[0], [1], [2], [2]])), "each position along the axis"),
    ],
)
def test_ones_own_table_must_fit_ones_own_model(place, message):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc1 = nn.Linear(3, 4)

        def symmetry(self):
            return [Group("hidden", 4, (place,))]

    with pytest.raises(InputError) as error:
        symmetry(Own())
    assert str(error.value).startswith("Own.symmetry(): group 'hidden': ")
    assert message in str(error.value)
