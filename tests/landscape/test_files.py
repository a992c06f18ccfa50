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
    record = network.layout.to_state(network.initial, network.module)
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


# Names that are not the model's own, and files of torch.save.


def plain(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.ReLU(), nn.Linear(4, 3)).state_dict()


class Inside(nn.Module):
    """The same as a part of another module."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.ReLU(), nn.Linear(4, 3))

    def forward(self, x):
        return self.net(x)


@pytest.fixture
def chain(data):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(36, 4), nn.ReLU(), nn.Linear(4, 3))
    return Network(module, data, CPU)


def after(prefix, tensors):
    return {f"{prefix}{name}": tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    "saved",
    [
        plain(),
        after("module.", plain()),
        after("_orig_mod.module.", plain()),
        {"state_dict": after("model.", plain()), "epoch": 3},
        {"model": plain(), "optimizer": {"state": {0: {"exp_avg": torch.zeros(4)}}, "lr": 0.1}},
        {"fold": {"0": {"net": {name: nn.Parameter(own) for name, own in plain().items()}}}},
    ],
    ids=["plain", "DDP", "compiled", "lightning", "checkpoint", "nested"],
)
def test_a_state_dict_is_found_wherever_it_is(chain, saved, tmp_path):
    torch.save(saved, tmp_path / "m.pt")
    wanted = chain.layout.to_vector(chain.initial)
    assert torch.equal(read(tmp_path / "m.pt", chain), wanted)
    if all(isinstance(tensor, torch.Tensor) for tensor in saved.values()):
        save_file(saved, tmp_path / "m")
        assert torch.equal(read(tmp_path / "m", chain), wanted)


def test_names_may_also_lack_what_the_models_own_begin_with(data, chain, tmp_path):
    save_file(after("module.", plain()), tmp_path / "m")
    network = Network(Inside(), data, CPU)
    assert torch.equal(read(tmp_path / "m", network), chain.layout.to_vector(chain.initial))


@pytest.mark.parametrize(
    ("saved", "names"),
    [
        ({"model": plain(), "ema": plain(1)}, "'model', 'ema'"),
        (after("student.", plain()) | after("teacher.", plain(1)), "'student', 'teacher'"),
    ],
)
def test_of_several_models_in_a_file_none_is_taken(chain, saved, names, tmp_path):
    torch.save(saved, tmp_path / "m.pt")
    with pytest.raises(InputError, match=rf"m.pt holds several such models \({names}\)"):
        read(tmp_path / "m.pt", chain)


def test_what_is_missing_too_much_or_of_another_shape_is_named_with_the_file(chain, tmp_path):
    tensors = plain()
    wrong = after("module.", {n: t for n, t in tensors.items() if n != "3.bias"})
    save_file(wrong | {"loss.scale": torch.ones(2)}, tmp_path / "m")
    with pytest.raises(
        InputError, match=r"m: the model has no 'loss.scale', and the file has no '3.bias'"
    ):
        read(tmp_path / "m", chain)
    save_file(tensors | {"1.bias": torch.ones(5), "3.bias": torch.ones(2)}, tmp_path / "m")
    with pytest.raises(
        InputError, match=r"'1.bias' is \(5,\), not \(4,\), '3.bias' is \(2,\), not"
    ):
        read(tmp_path / "m", chain)


class Runs:
    """Would write a file where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_no_code_of_a_file_is_run(chain, tmp_path, monkeypatch):
    torch.save(plain() | {"more": Runs(tmp_path / "ran")}, tmp_path / "m.pt")
    with pytest.raises(InputError, match=r"m.pt has more than tensors"):
        read(tmp_path / "m.pt", chain)
    assert not (tmp_path / "ran").exists()
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.5.1"))
    with pytest.raises(InputError, match=r"PyTorch 2.5.1 cannot read it safely"):
        read(tmp_path / "m.pt", chain)
