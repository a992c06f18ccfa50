"""Models from files: tensors of two names, buffers that no file has, and integers that differ."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fedalign.errors import InputError
from fedalign.landscape.files import read
from fedalign.network.network import Network

CPU = torch.device("cpu")


class Tied(nn.Module):
    """One weight under two names, one norm under two, and buffers of all kinds."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(36, 8), nn.Linear(8, 8), nn.Linear(8, 8, bias=False)
        self.c.weight = self.b.weight
        self.norm = self.again = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 3)
        self.register_buffer("scale", torch.full((8,), 2.0), persistent=False)
        self.register_buffer("order", torch.randperm(8))

    def forward(self, x):
        x = self.again(self.norm(self.b(self.a(x.flatten(1)))))
        return self.head(self.c((x * self.scale)[:, self.order]))


@pytest.fixture
def network(data):
    torch.manual_seed(0)
    return Network(Tied(), data, CPU)


def state(seed=0):
    torch.manual_seed(seed)
    return {name: tensor.clone() for name, tensor in Tied().state_dict().items()}


def test_a_saved_model_has_every_name_and_is_read_again(network, tmp_path):
    record = network.layout.to_state(network.initial)
    save_file({n: torch.from_numpy(a.numpy()) for n, a in record.items()}, tmp_path / "m")
    module = Tied()
    assert (
        str(module.load_state_dict(load_file(tmp_path / "m"))) == "<All keys matched successfully>"
    )
    vector = read(tmp_path / "m", network)
    assert torch.equal(vector, network.layout.to_vector(network.initial))


@pytest.mark.parametrize("left_out", [(), ("c.weight",), ("b.weight",), ("norm.weight",)])
def test_one_of_two_names_is_enough(network, left_out, tmp_path):
    save_file({n: t for n, t in state().items() if n not in left_out}, tmp_path / "m")
    vector = read(tmp_path / "m", network)
    assert torch.equal(vector, network.layout.to_vector(network.initial))


def test_names_of_one_tensor_must_agree(network, tmp_path):
    save_file(state() | {"c.weight": torch.zeros(8, 8)}, tmp_path / "m")
    with pytest.raises(InputError, match=r"m: 'b.weight' and 'c.weight' differ, but are one"):
        read(tmp_path / "m", network)


def test_integers_that_change_the_function_must_be_the_networks_own(network, tmp_path):
    counts = {f"{name}.num_batches_tracked": torch.tensor(9) for name in ("norm", "again")}
    save_file(state() | counts, tmp_path / "m")
    read(tmp_path / "m", network)
    save_file(state() | {"order": torch.arange(8)}, tmp_path / "m")
    with pytest.raises(InputError, match="'order' is not as in the network"):
        read(tmp_path / "m", network)
