"""A table of exchangeable neurons is tried before it is believed."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from fedalign.data import Dataset
from fedalign.errors import InputError
from fedalign.models.mlp import mlp
from fedalign.models.resnet import resnet20
from fedalign.models.symmetry import Group, Neurons, Place
from fedalign.models.vgg import vgg
from fedalign.models.vit import vit
from fedalign.network.network import Network

CPU, SHAPE = torch.device("cpu"), (1, 16, 16)


def network(module, shape=SHAPE):
    images = torch.zeros(5, *shape, dtype=torch.uint8)
    data = Dataset(images, torch.arange(5), 5, (0.3,), (0.2,), "made up")
    return Network(module, data, CPU)


class Own(nn.Module):
    """Two hidden layers, one with a norm, and a table that leaves out or adds some tensors."""

    def __init__(self, *left_out, more=(), astray=None):
        super().__init__()
        self.left_out, self.more, self.astray = left_out, more, astray
        self.fc1, self.norm = nn.Linear(256, 8), nn.BatchNorm1d(8)
        self.fc2, self.head = nn.Linear(8, 8), nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.fc2(self.norm(self.fc1(x.flatten(1))).relu()).relu())

    def symmetry(self):
        one, two = Neurons("one", 8), Neurons("two", 8)
        one.own(self.fc1, "fc1")
        one.own(self.norm, "norm")
        one.feed(self.fc2, "fc2")
        two.own(self.fc2, "fc2")
        two.feed(self.head, "head")
        for group in one.groups() + two.groups():
            places = [p for p in group.places if (group.name, p.tensor) not in self.left_out]
            places = [replace(p, at=p.at[::-1]) if p.tensor == self.astray else p for p in places]
            places += [Place(*place, np.arange(8)[:, None]) for place in self.more]
            yield replace(group, places=tuple(places))


@pytest.mark.parametrize(
    "build",
    [lambda: mlp(SHAPE, 5, width=9), lambda: resnet20(SHAPE, 5, norm="batch"),
     lambda: resnet20(SHAPE, 5, norm="group"), lambda: vgg(SHAPE, 5, depth=11, width=4),
     lambda: vit(SHAPE, 5, patch=8, width=12, depth=2, heads=3), Own],
)  # fmt: skip
def test_what_is_right_is_believed(build):
    torch.manual_seed(0)
    assert network(build()).symmetry


@pytest.mark.parametrize(
    "tensors",
    [["fc1.bias"], ["norm.weight"], ["norm.bias"], ["norm.running_mean"], ["norm.running_var"],
     ["fc1.weight"], ["fc2.weight"], ["norm.running_mean", "norm.running_var"]],
)  # fmt: skip
def test_what_a_table_forgets_is_named(tensors):
    torch.manual_seed(0)
    with pytest.raises(InputError) as error:
        network(Own(*(("one", tensor) for tensor in tensors))).symmetry  # noqa: B018
    told = str(error.value)
    assert told.startswith("Own.symmetry(): group 'one': exchanging its neurons changes")
    assert all(f"'{tensor}' (axis {int(tensor == 'fc2.weight')})" in told for tensor in tensors)


def test_what_does_not_belong_is_named():
    with pytest.raises(InputError, match=r"group 'two'.*'norm.bias' \(axis 0\) does not belong"):
        network(Own(("one", "norm.bias"), more=[("norm.bias", 0)])).symmetry  # noqa: B018


def test_another_order_in_one_tensor_is_found():
    with pytest.raises(InputError, match="group 'one': exchanging its neurons changes what"):
        network(Own(astray="norm.weight")).symmetry  # noqa: B018


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        ([nn.Linear(16, 9), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)],
         "exchanging the neurons of layer '0' (Linear(in_features=16, out_features=9, bias=True))"),
        ([nn.Flatten(), nn.Linear(256, 5)], "it has no hidden ones"),
        ([nn.Conv2d(1, 4, 3), nn.Softmax(1), nn.Flatten(), nn.Linear(784, 5)],
         "it is not known what layer '1' (Softmax(dim=1)) does with them"),
        ([nn.Flatten(), *[nn.Linear(256, 256)] * 2, nn.Linear(256, 5)],
         "layers '1' and '2' are one"),
    ],
)  # fmt: skip
def test_of_what_is_wrong_or_not_known_the_layer_is_named(layers, reason):
    torch.manual_seed(0)
    found = network(nn.Sequential(*layers)).exchangeable
    assert found.groups == ()
    assert found.reason.startswith(reason)


def test_who_has_no_table_is_told_so():
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(256, 5)

        def forward(self, x):
            return self.fc(x.flatten(1))

    assert network(Plain()).exchangeable.reason == "Plain is no nn.Sequential"


def test_a_group_that_is_seen_nowhere_is_refused():
    class Unseen(Own):
        def symmetry(self):
            (first, *_), place = super().symmetry(), Neurons("x", 8)
            place.watch("fc9")
            return [Group("x", 8, first.places, place.seen)]

    with pytest.raises(InputError, match="group 'x' is seen in 'fc9'"):
        network(Unseen()).symmetry  # noqa: B018


@pytest.mark.parametrize("made", [lambda: 1 / 0, lambda: (5,), lambda: 7])
def test_a_table_that_cannot_be_made_is_one_line(made):
    model = Own()
    model.symmetry = made
    with pytest.raises(
        InputError, match=r"^Own\.symmetry\(\): (ZeroDivision|Attribute|Type)Error: "
    ):
        network(model).symmetry  # noqa: B018
