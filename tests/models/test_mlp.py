import pytest
import torch

from fedalign.models.mlp import mlp


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({}, 784 * 200 + 200 + 200 * 200 + 200 + 200 * 10 + 10),
        ({"depth": 1, "width": 5}, 784 * 5 + 5 + 5 * 10 + 10),
        ({"depth": 0}, 784 * 10 + 10),
    ],
)
def test_number_of_parameters(options, count):
    model = mlp((1, 28, 28), 10, **options)
    assert sum(p.numel() for p in model.parameters()) == count
    assert model(torch.zeros(3, 1, 28, 28)).shape == (3, 10)


def test_layers_have_names():
    assert list(mlp((1, 8, 8), 10).state_dict()) == [
        f"fc{number}.{kind}" for number in (1, 2, 3) for kind in ("weight", "bias")
    ]


def test_torchs_generator_alone_decides_the_weights():
    def weights(seed):
        torch.manual_seed(seed)
        return mlp((1, 8, 8), 10).state_dict()["fc1.weight"]

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))
