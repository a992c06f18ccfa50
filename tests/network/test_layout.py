import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord
from torch import nn

from fedalign.network.arrays import like
from fedalign.network.layout import Layout


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3, bias=False)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(3)


def test_parameters_come_first_then_float_buffers():
    layout = Layout.of(Tied())
    assert [e.name for e in layout.parameters] == [
        "first.weight",
        "second.bias",
        "norm.weight",
        "norm.bias",
    ]
    assert [e.name for e in layout.buffers] == ["norm.running_mean", "norm.running_var"]
    assert layout.counters == ("norm.num_batches_tracked",)
    assert layout.num_parameters == 9 + 3 + 3 + 3
    assert (layout.parameter_size, layout.size) == (4 * 16, 6 * 16)


def test_record_and_back_is_exact():
    model = Tied()
    layout = Layout.of(model)
    vector = layout.spread(torch.randn(18 + 6))
    record = layout.to_record(vector, layout.counters_of(layout.initial_record(model)))
    assert torch.equal(layout.to_vector(record), vector)
    assert record["norm.num_batches_tracked"].numpy() == 0
    assert sum(array.numpy().nbytes for array in record.values()) == 4 * (18 + 6) + 8


def test_a_number_is_a_tensor_too():
    """Such as a learnt temperature, which has no axes."""
    model = nn.Linear(2, 1)
    model.temperature = nn.Parameter(torch.tensor(3.0))
    layout = Layout.of(model)
    record = layout.initial_record(model)
    assert record["temperature"].numpy() == 3
    assert torch.equal(layout.to_vector(record), layout.flatten(model))


def test_bound_tensors_are_views():
    model = Tied()
    layout = Layout.of(model)
    vector = layout.flatten(model).clone()
    layout.bind(model, vector)
    vector[0] = 42
    assert model.first.weight[0, 0] == 42
    assert model.second.weight is model.first.weight
    model.norm.running_var.fill_(7)
    assert layout.compact(vector)[-3:].tolist() == [7, 7, 7]


def test_gradients_land_in_the_vector():
    model = nn.Linear(2, 1)
    layout = Layout.of(model)
    gradient = torch.zeros(layout.parameter_size)
    layout.bind_gradients(model, gradient)
    model(torch.tensor([[2.0, 5.0]])).sum().backward()
    assert layout.compact(gradient).tolist() == [2, 5, 1]


def test_foreign_records_are_refused_by_name():
    model = nn.Linear(2, 1)
    layout = Layout.of(model)
    with pytest.raises(ValueError, match="no array 'bias'"):
        layout.to_vector(ArrayRecord({"weight": Array(np.zeros((1, 2), np.float32))}))
    with pytest.raises(ValueError, match=r"'weight' is \(2, 1\), not \(1, 2\)"):
        layout.to_vector(ArrayRecord({"weight": Array(np.zeros((2, 1), np.float32))}))


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        (lambda: nn.Linear(2, 1).double(), "parameter 'weight' is torch.float64"),
        (lambda: nn.Linear(2, 1).requires_grad_(False), "all of its parameters have requires_grad"),
        (lambda: nn.LazyLinear(2), "parameter 'weight' has no shape yet"),
        (lambda: nn.Linear(2, 1, device="meta"), "parameter 'weight' is on the device 'meta'"),
        (lambda: nn.ReLU(), "no parameters to train"),
    ],
)
def test_parameters_that_cannot_be_trained_are_refused(model, problem):
    with pytest.raises(TypeError, match=problem):
        Layout.of(model())


def test_like_restores_dtypes_order_and_counters():
    sent = ArrayRecord({"w": Array(np.ones(2, np.float32)), "n": Array(np.array(3))})
    mended = like(ArrayRecord({"n": Array(np.array(3.5)), "w": Array(np.ones(2) / 3)}), sent)
    assert list(mended) == ["w", "n"]
    assert mended["w"].numpy().dtype == np.float32
    assert mended["n"].numpy() == 3
    assert mended["n"].numpy().dtype == sent["n"].numpy().dtype
