import pytest
import torch
from torch.nn import functional

from fedalign.data import Dataset
from fedalign.data.text import VOCABULARY
from fedalign.errors import InputError
from fedalign.models.cnn import cnn
from fedalign.models.lenet import lenet5
from fedalign.models.resnet import resnet20
from fedalign.models.text import char_lstm, char_transformer
from fedalign.models.vgg import vgg
from fedalign.models.vit import vit
from fedalign.network.network import Network

BUILD = {"char-lstm": char_lstm, "char-transformer": char_transformer}


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def small(name, length=7, seed=0):
    torch.manual_seed(seed)
    return BUILD[name]((length,), 11, width=8, depth=2)


def text(count=12, length=7):
    draw = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 11, (count, length), generator=draw).to(torch.uint8)
    return Dataset(codes, torch.arange(count) % 11, 11, (), (), "made up")


def test_parameter_counts_by_hand():
    """An LSTM layer has four gates, each with a row an input and state, and two biases."""
    lstm = 8 * VOCABULARY + 4 * 256 * (8 + 256 + 2) + 4 * 256 * (256 + 256 + 2)
    assert parameters(char_lstm((80,), VOCABULARY, width=256)) == lstm + 257 * VOCABULARY
    block = 2 * 2 * 64 + (64 + 1) * 3 * 64 + (64 + 1) * 64 + (64 + 1) * 128 + (128 + 1) * 64
    outside = 64 * VOCABULARY + 80 * 64 + 2 * 64 + (64 + 1) * VOCABULARY
    assert parameters(char_transformer((80,), VOCABULARY)) == 2 * block + outside


@pytest.mark.parametrize("name", BUILD)
@pytest.mark.parametrize("length", [1, 7])
def test_each_example_by_itself(name, length):
    model, codes = small(name, length).eval(), text(length=length).images.long()
    logits = model(codes)
    assert logits.shape == (12, 11)
    alone = torch.cat([model(own[None]) for own in codes])
    torch.testing.assert_close(logits, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", BUILD)
def test_the_order_of_characters_counts_from_the_first_to_the_last(name):
    model, codes = small(name), text(1).images.long()
    for place in (0, 6):
        other = codes.clone()
        other[0, place] = (codes[0, place] + 1) % 11
        assert (model(codes) - model(other)).abs().max() > 1e-6
    assert (model(codes) - model(codes.flip(1))).abs().max() > 1e-6


def test_an_lstm_by_hand():
    """Gates i, f, g, o of a layer, as PyTorch orders them, and the last state through the head."""
    torch.manual_seed(0)
    model = char_lstm((5,), 11, width=3, depth=1)
    own = dict(model.named_parameters())
    codes = torch.tensor([3, 1, 4, 1, 5])
    h = c = torch.zeros(3)
    for code in codes:
        x = own["embedding.weight"][code]
        gates = own["lstm.weight_ih_l0"] @ x + own["lstm.bias_ih_l0"]
        gates = gates + own["lstm.weight_hh_l0"] @ h + own["lstm.bias_hh_l0"]
        i, f, g, o = gates.split(3)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
    expected = own["fc.weight"] @ h + own["fc.bias"]
    torch.testing.assert_close(model(codes[None])[0], expected)


@pytest.mark.parametrize("name", BUILD)
def test_torchs_generator_alone_decides_the_weights(name):
    def weights(seed):
        return torch.cat([p.flatten() for p in small(name, seed=seed).parameters()])

    assert torch.equal(weights(3), weights(3))
    assert not torch.equal(weights(3), weights(4))


@pytest.mark.parametrize("build", [cnn, lenet5, resnet20, vgg, vit])
def test_an_image_model_refuses_text(build):
    name = build.__name__
    with pytest.raises(InputError, match=f"model.name: '{name}' takes images, and an example of"):
        build((80,), 81)


@pytest.mark.parametrize("name", BUILD)
def test_a_text_model_refuses_images(name):
    with pytest.raises(
        InputError, match=rf"'{name}' takes text, but this data is images \(1x8x8\)"
    ):
        BUILD[name]((1, 8, 8), 10)


def test_a_transformer_refuses_heads_that_do_not_divide_the_width():
    with pytest.raises(InputError, match=r"model\.heads: 3 heads do not divide a width of 64"):
        char_transformer((80,), 81, heads=3)


@pytest.mark.parametrize("name", BUILD)
def test_gradients_of_models_in_flat_vectors_are_autograds(name):
    """Weights are views of a row of a block, which an LSTM must look up afresh each time."""
    data, module = text(), small(name)
    network = Network(module, data, torch.device("cpu"))
    layout = network.layout
    block = torch.stack([layout.flatten(small(name, seed=seed)) for seed in (1, 2)])
    images, labels = data.images.view(2, 6, 7), data.labels.view(2, 6)
    found = torch.full_like(block, torch.nan)
    losses = network.gradients(block, images, labels, [6, 6], found)
    for k, seed in enumerate((1, 2)):
        alone = small(name, seed=seed)
        loss = functional.cross_entropy(alone(images[k].long()), labels[k])
        loss.backward()
        expected = torch.cat([p.grad.flatten() for p in alone.parameters()])
        torch.testing.assert_close(losses[k], loss.detach())
        torch.testing.assert_close(layout.compact(found[k]), expected, rtol=1e-4, atol=1e-6)
        point = network.evaluate(block[k], Dataset(images[k], labels[k], 11, (), (), "a part"), 4)
        assert point[0] == pytest.approx(loss.item(), rel=1e-5)


@pytest.mark.parametrize("name", BUILD)
def test_features_are_what_the_last_layer_sees_and_a_twin_is_apart(name):
    data, module = text(), small(name)
    network = Network(module, data, torch.device("cpu"))
    one, other = (network.layout.flatten(small(name, seed=seed)) for seed in (1, 2))
    seen = network.features(one[None], data.images[None])
    assert seen.shape == (1, 12, 8)
    twin = network.twin()
    twin.evaluate(other, data, 12)
    assert network.evaluate(one, data, 12) != twin.evaluate(other, data, 12)
    logits = seen[0] @ small(name, seed=1).fc.weight.T + small(name, seed=1).fc.bias
    expected = functional.cross_entropy(logits, data.labels).item()
    assert network.evaluate(one, data, 12)[0] == pytest.approx(expected, rel=1e-5)


def test_a_model_of_layers_known_to_stacks_is_stacked_on_text_too():
    class OneHot(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = torch.nn.Linear(11 * 7, 11)

        def forward(self, codes):
            return self.fc(functional.one_hot(codes, 11).flatten(1).float())

    torch.manual_seed(0)
    data = text()
    network = Network(OneHot(), data, torch.device("cpu"))
    assert network.stacked is not None
