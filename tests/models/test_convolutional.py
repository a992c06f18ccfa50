import pytest
import torch

from fedalign.errors import InputError
from fedalign.models.cnn import cnn
from fedalign.models.lenet import lenet5
from fedalign.models.vgg import vgg
from fedalign.models.vit import vit


def small_vgg(shape, classes):
    return vgg(shape, classes, width=8)


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def test_known_parameter_counts():
    assert parameters(cnn((3, 32, 32), 10)) == 122_570
    assert parameters(lenet5((1, 28, 28), 10)) == 61_706
    assert parameters(vgg((3, 32, 32), 10)) == 9_225_610
    assert parameters(vgg((3, 32, 32), 10, depth=16)) == 14_719_818


@pytest.mark.parametrize("build", [cnn, lenet5, small_vgg, vit])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 33, 47)])
def test_any_large_enough_image_gives_logits(build, shape):
    assert build(shape, 7)(torch.randn(2, *shape)).shape == (2, 7)


@pytest.mark.parametrize(("build", "least"), [(cnn, 18), (lenet5, 12)])
def test_the_least_size_works_and_one_less_is_an_error(build, least):
    assert build((1, least, least), 2)(torch.randn(2, 1, least, least)).shape == (2, 2)
    message = f"{build.__name__}.*at least {least}x{least}.*has {least}x{least - 1}"
    with pytest.raises(InputError, match=message):
        build((1, least, least - 1), 2)


@pytest.mark.parametrize("depth", [11, 13, 16, 19])
def test_vgg_is_as_deep_as_its_name_says_and_passes_a_signal(depth):
    """The name counts three linear layers, of which one is left."""
    torch.manual_seed(0)
    model = vgg((1, 28, 28), 10, depth=depth, width=16)
    weighted = [m for m in model if hasattr(m, "weight")]
    assert len(weighted) == depth - 2
    logits = model(torch.randn(16, 1, 28, 28))
    assert 0.1 < logits.std() < 10


def test_a_vision_transformer_refuses_what_does_not_fit():
    with pytest.raises(InputError, match=r"model\.heads: 5 heads do not divide a width of 64"):
        vit((1, 28, 28), 10, heads=5)
    with pytest.raises(InputError, match=r"model\.patch: 29 is larger than images of 28x28"):
        vit((1, 28, 28), 10, patch=29)


@pytest.mark.parametrize("build", [cnn, lenet5, small_vgg, vit])
def test_torchs_generator_alone_decides_the_weights(build):
    def weights(seed):
        torch.manual_seed(seed)
        return torch.cat([p.flatten() for p in build((1, 28, 28), 10).parameters()])

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))
