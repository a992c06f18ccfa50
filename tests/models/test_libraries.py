"""The models of torchvision and timm: images of any form go in, and files of their weights."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fedalign.errors import InputError
from fedalign.federation.federation import Federation
from fedalign.models import libraries
from fedalign.settings.config import read


def test_images_become_colour_and_of_one_size():
    seen = []
    net = libraries.Resized(nn.Identity(), 4)
    net.net.register_forward_hook(lambda _module, inputs, _out: seen.append(inputs[0]))
    grey = torch.arange(4.0).view(1, 1, 2, 2)
    net(grey)
    (found,) = seen
    assert found.shape == (1, 3, 4, 4)
    assert torch.equal(found[:, 0], found[:, 2])
    assert found[0, 0, 0, 0] == 0
    assert found[0, 0, 3, 3] == 3
    colour = torch.randn(2, 3, 4, 4)
    assert torch.equal(net(colour), colour)
    assert torch.equal(libraries.Resized(nn.Identity(), None)(colour[:, :, :3]), colour[:, :, :3])


def test_weights_of_another_number_of_classes_leave_the_last_layer():
    net, other = nn.Linear(2, 3), nn.Linear(2, 5)
    body = nn.Sequential(nn.Linear(2, 2), net)
    bias = net.bias.clone()
    libraries._fill(body, nn.Sequential(given := nn.Linear(2, 2), other).state_dict(), "X")
    assert torch.equal(body[0].weight, given.weight)
    assert torch.equal(net.bias, bias)


def test_without_a_network_the_error_is_one_line_with_a_cure():
    def fails(**_):
        raise OSError("Name or service\nnot known")

    weights = SimpleNamespace(url="https://x.org/w.pth", get_state_dict=fails)
    problem = r"model\.weights: https://x\.org/w\.pth cannot be downloaded \(Name or service not"
    with pytest.raises(InputError, match=problem):
        libraries._downloaded(weights)


@pytest.mark.slow
def test_a_file_of_torchvisions_weights_starts_a_run(tmp_path):
    models = pytest.importorskip("torchvision.models")
    torch.manual_seed(0)
    theirs = models.squeezenet1_1(weights=None, num_classes=7)
    file = tmp_path / "squeezenet.pth"
    torch.save(theirs.state_dict(), file)
    settings = {"model": "torchvision", "model.architecture": "squeezenet1_1", "model.size": 32}
    found = Federation(read(None, settings, {"model.weights": str(file)}))
    own = found.network.module.net.state_dict()
    head = {"classifier.1.weight", "classifier.1.bias"}
    for name, tensor in theirs.state_dict().items():
        assert name in head or torch.equal(own[name], tensor)
    assert found.start.anew.startswith("head net.classifier.1.weight (10, 512, 1, 1) starts anew")
    for changed, problem in (
        ({"model.architecture": "squeezenet1_9"}, "did you mean 'squeezenet1_1'"),
        (
            {"model.weights": "IMAGENET1K_V9"},
            "neither a file nor weights; did you mean 'IMAGENET1K",
        ),
    ):
        with pytest.raises(InputError, match=problem):
            Federation(read(None, settings, changed)).network  # noqa: B018


@pytest.mark.slow
def test_a_vision_transformer_of_torchvision_is_stacked():
    pytest.importorskip("torchvision.models")
    settings = {"model": "torchvision", "model.architecture": "vit_b_16", "model.size": 16}
    built = read(None, settings).model.build(shape=(1, 8, 8), classes=10)
    assert built.eval()(torch.randn(2, 1, 8, 8)).shape == (2, 10)


@pytest.mark.slow
def test_a_model_of_timm(tmp_path):
    timm = pytest.importorskip("timm")
    settings = {"model": "timm", "model.architecture": "test_vit", "model.size": 32}
    theirs = timm.create_model("test_vit", num_classes=7, img_size=32)
    file = tmp_path / "vit.pth"
    torch.save(theirs.state_dict(), file)
    found = Federation(read(None, settings, {"model.weights": str(file)}))
    assert found.start.anew.startswith("head net.head.weight (10, 64) starts anew")
    own = found.network.module.net.state_dict()
    assert torch.equal(own["patch_embed.proj.weight"], theirs.patch_embed.proj.weight)
    with pytest.raises(InputError, match=r"model\.weights: 'x' is neither a file nor 'pretrained'"):
        Federation(read(None, settings, {"model.weights": "x"})).network  # noqa: B018
    with pytest.raises(InputError, match=r"model\.architecture: 'test_vot' is none of timm's"):
        Federation(read(None, settings, {"model.architecture": "test_vot"})).network  # noqa: B018
