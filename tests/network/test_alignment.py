"""Every tensor begins at a multiple of 64 bytes, and padding between tensors stays 0."""

import numpy as np
import pytest
import torch
from torch import nn

from fedalign.landscape.evaluator import _mixed
from fedalign.landscape.matching import weight_matching
from fedalign.landscape.universe import universe
from fedalign.models.cnn import cnn
from fedalign.models.lenet import lenet5
from fedalign.models.mlp import mlp
from fedalign.models.resnet import resnet20
from fedalign.models.symmetry import symmetry
from fedalign.models.text import char_lstm, char_transformer
from fedalign.models.vgg import vgg
from fedalign.models.vit import vit
from fedalign.network.layout import Layout
from fedalign.network.permutations import shuffled
from fedalign.settings.builtin import BUILTIN

SHAPE = (3, 32, 32)
MODELS = {
    "mlp": lambda: mlp(SHAPE, 10, depth=2, width=7),
    "cnn": lambda: cnn(SHAPE, 10, width=5),
    "lenet5": lambda: lenet5(SHAPE, 10),
    **{
        f"resnet20 {n}": lambda n=n: resnet20(SHAPE, 10, norm=n) for n in ("none", "batch", "group")
    },
    **{f"vgg {n}": lambda n=n: vgg(SHAPE, 10, width=8, norm=n) for n in ("none", "batch", "group")},
    "vit": lambda: vit(SHAPE, 10, patch=8, width=12, depth=2, heads=3),
    "char-lstm": lambda: char_lstm((9,), 5, width=7),
    "char-transformer": lambda: char_transformer((9,), 5, width=12, depth=2, heads=3),
}


class Odd(nn.Module):
    """A number, an empty tensor, a tied weight, and buffers of one, three and four axes."""

    def __init__(self):
        super().__init__()
        self.temperature, self.none = nn.Parameter(torch.tensor(2.0)), nn.Parameter(torch.empty(0))
        self.one, self.two = nn.Linear(3, 3), nn.Linear(3, 3)
        self.two.weight = self.one.weight
        self.norm = nn.BatchNorm3d(5)
        self.register_buffer("scale", torch.rand(1))
        self.register_buffer("kernel", torch.rand(3, 2, 1, 3))
        self.register_buffer("positions", torch.rand(1, 3, 5))


MODULES = MODELS | {
    "odd": Odd,
    "one number": lambda: nn.Linear(1, 1, bias=False),
    "just full": lambda: nn.Linear(16, 16),
    "one too many": lambda: nn.Sequential(nn.Linear(17, 1), nn.BatchNorm1d(17)),
    "grouped": lambda: nn.Conv2d(6, 9, 3, groups=3),
    "transposed": lambda: nn.ConvTranspose1d(3, 5, 2),
    "attention": lambda: nn.MultiheadAttention(6, 2),
    "bilinear": lambda: nn.Bilinear(2, 3, 5),
}


@pytest.fixture(params=MODULES)
def module(request):
    torch.manual_seed(0)
    return MODULES[request.param]()


def test_no_model_is_forgotten():
    others = {"transformer", "torchvision", "timm"}  # of packages; their own tests run them
    assert {name.split()[0] for name in MODELS} == set(BUILTIN["models"]) - others


def test_every_tensor_of_every_row_is_aligned(module):
    layout = Layout.of(module)
    block = layout.flatten(module).repeat(3, 1)
    gradients = torch.zeros_like(block[:, : layout.parameter_size])
    views = [(entry, block) for entry in layout.entries]
    views += [(entry, gradients) for entry in layout.parameters]
    for entry, rows in views:
        for k in (1, 2, 3):
            assert all(entry.view(row).data_ptr() % 64 == 0 for row in rows[:k])
            assert entry.view(rows[3 - k :]).data_ptr() % 64 == 0
    layout.bind(module, block[1])
    layout.bind_gradients(module, gradients[1])
    bound = [*module.parameters(), *(p.grad for p in module.parameters()), *module.buffers()]
    assert all(tensor.data_ptr() % 64 == 0 for tensor in bound if tensor.is_floating_point())


def test_tensors_do_not_overlap_and_the_gaps_are_padding(module):
    layout = Layout.of(module)
    owners = torch.zeros(layout.size, dtype=torch.int64)
    for entry in layout.entries:
        owners[entry.start : entry.stop] += 1
    assert owners.max() == 1
    assert int(owners[: layout.parameter_size].sum()) == layout.num_parameters
    assert layout.num_parameters == sum(p.numel() for p in module.parameters())
    flat = layout.flatten(module)
    assert (flat[owners == 0] == 0).all()
    record = layout.to_record(flat, {})
    assert torch.equal(layout.to_vector(record), flat)
    assert sum(a.numpy().size for a in record.values()) == layout.num_values


def test_what_travels_has_no_padding_and_comes_back(module):
    layout = Layout.of(module)
    flat = layout.flatten(module)
    for vector, count in [
        (flat, layout.num_values),
        (flat[: layout.parameter_size], layout.num_parameters),
    ]:
        values = layout.compact(vector)
        assert values.shape == (count,)
        assert torch.equal(layout.spread(values), vector)
        block = vector.repeat(2, 1) * torch.tensor([[1.0], [2.0]])
        assert torch.equal(layout.spread(layout.compact(block)), block)


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet20 batch", "vgg group", "vit"])
def test_mixing_and_matching_leave_padding_alone(name):
    module, draw = MODELS[name](), np.random.default_rng(0)
    layout, groups = Layout.of(module), symmetry(module)
    one = layout.flatten(module)
    other = shuffled(layout, groups, draw, one)
    matched = weight_matching(layout, groups, one, other, draw)
    both = universe(layout, groups, [one, other], draw)
    padding = layout.spread(torch.ones(layout.num_values)) == 0
    places = torch.arange(layout.size)[padding]
    assert len(places)
    for found in (matched, *both.models):
        assert torch.equal(found.index[padding], places)
    mixed = _mixed({"a": one, "b": other}, {"a": 0.3, "b": 0.7})
    assert (mixed[padding] == 0).all()


def test_tensors_of_other_lengths_are_nobodys_padding():
    layout = Layout.of(nn.Linear(3, 3))
    for other in (torch.tensor(3.0), torch.rand(5), torch.rand(2, 7)):
        assert layout.compact(other) is other
        assert layout.spread(other) is other
