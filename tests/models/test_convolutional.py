import pytest
import torch

from fedalign.errors import InputError
from fedalign.models.cnn import cnn
from fedalign.models.lenet import lenet5


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def test_known_parameter_counts():
    assert parameters(cnn((3, 32, 32), 10)) == 122_570
    assert parameters(lenet5((1, 28, 28), 10)) == 61_706


@pytest.mark.parametrize("build", [cnn, lenet5])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 33, 47)])
def test_any_large_enough_image_gives_logits(build, shape):
    assert build(shape, 7)(torch.randn(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize(("build", "least"), [(cnn, 18), (lenet5, 12)])
def test_the_least_size_works_and_one_less_is_an_error(build, least):
    assert build((1, least, least), 2)(torch.randn(2, 1, least, least)).shape == (2, 2)
    message = f"{build.__name__}.*at least {least}x{least}.*has {least}x{least - 1}"
    with pytest.raises(InputError, match=message):
        build((1, least, least - 1), 2)


@pytest.mark.parametrize("build", [cnn, lenet5])
def test_torchs_generator_alone_decides_the_weights(build):
    def weights(seed):
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in build((1, 28, 28), 10).parameters()])

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))
