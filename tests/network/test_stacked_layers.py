"""Every layer that has a stacked form computes with K sets of weights what it does with each."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from fedalign.data import Dataset
from fedalign.network.convolution import grouped_conv
from fedalign.network.layout import Layout
from fedalign.network.mixtures import Mixtures
from fedalign.network.network import Network
from fedalign.network.one_by_one import OneByOne
from fedalign.network.stacked import LAYERS, Stacked
from fedalign.settings.builtin import BUILTIN
from fedalign.settings.registry import load

CPU = torch.device("cpu")
IMAGE, TEXT, CLASSES = (2, 8, 8), (7,), 5  # an image is also 16 rows of 8


class Around(nn.Module):
    """A layer, how to run it on images `(N, 2, 8, 8)`, and a linear layer."""

    def __init__(self, layer, run, width):
        super().__init__()
        self.layer, self.run, self.fc = layer, run, nn.Linear(width, CLASSES)

    def forward(self, x):
        return self.fc(self.run(self.layer, x).flatten(1))


def on_rows(layer, x):
    return layer(x.flatten(1, 2))


def outputs(layer, x):
    return layer(x.flatten(1, 2))[0]


def outputs_time_first(layer, x):
    return layer(x.flatten(1, 2).transpose(0, 1))[0].transpose(0, 1)


def last_states(layer, x):
    """From a start of its own; of an LSTM both kinds of state."""
    count = layer.num_layers * (2 if layer.bidirectional else 1)
    start = x.flatten(1)[:, : layer.hidden_size].expand(count, -1, -1)
    is_lstm = isinstance(layer, nn.LSTM)
    _, last = layer(x.flatten(1, 2), (start, -start) if is_lstm else start)
    return torch.cat(last if is_lstm else [last]).transpose(0, 1)


def self_attention(layer, x):
    return outputs_time_first(lambda rows: layer(rows, rows, rows), x)


def attention_weights(layer, x, average=True):
    x = x.flatten(1, 2)
    y, weights = layer(x, x.flip(1), x.square(), average_attn_weights=average)
    return torch.cat([y.flatten(1), weights.flatten(1)], 1)


def masked(layer, x, by_head=False):
    """Some keys are forbidden for each example, some for each query, of every head."""
    x = x.flatten(1, 2)
    padding = x[:, :, 0] > 0.5
    padding[:, 0].zero_()
    pairs = torch.ones(16, 16).triu(1).bool()
    if by_head:
        pairs = (0.1 * torch.arange(256.0).view(16, 16)).sin().repeat(2 * len(x), 1, 1)
        padding = torch.zeros_like(x[:, :, 0]).masked_fill(padding, -torch.inf)
    return layer(x, x, x, padding, need_weights=False, attn_mask=pairs)[0]


class Tied(nn.Module):
    """One weight in two layers, one layer called twice, and a weight that nothing uses."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.three = (nn.Linear(128, 128) for _ in range(3))
        self.two.weight = self.one.weight
        self.spare, self.head = nn.Linear(2, 2), nn.Linear(128, CLASSES)

    def forward(self, x):
        x = self.two(self.one(x.flatten(1)).relu()).relu()
        return self.head(self.three(self.three(x).relu()))


class TiedTable(nn.Module):
    """A language model whose last layer has the embedding's weight."""

    def __init__(self):
        super().__init__()
        self.embedding, self.fc = nn.Embedding(CLASSES, 8), nn.Linear(8, CLASSES)
        self.fc.weight = self.embedding.weight

    def forward(self, codes):
        return self.fc(self.embedding(codes).mean(1))


class Own(nn.Module):
    """Parameters of its own that are the same for all examples, one of them used twice."""

    def __init__(self):
        super().__init__()
        self.place, self.token = (
            nn.Parameter(torch.randn(1, 2, 8, 8)),
            nn.Parameter(torch.randn(1, 8)),
        )
        self.register_buffer("wave", torch.arange(8.0).sin())
        self.fc = nn.Linear(136, CLASSES)

    def forward(self, x):
        x = (x * self.place.exp() + self.place + self.wave).flatten(1)
        return self.fc(torch.cat([self.token.expand(len(x), -1), x], 1))


def encoder():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=True)
    return Around(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), on_rows, 128)


def chain(*layers, width):
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width, CLASSES))


Attention = partial(nn.MultiheadAttention, 8, 2, batch_first=True)
LSTM = partial(nn.LSTM, 8, 3, 2, batch_first=True, bidirectional=True)
BY_HEAD = partial(attention_weights, average=False)
CASES = {
    "linear on the last axis": lambda: chain(nn.Linear(8, 4), nn.ReLU(), width=64),
    "bn": lambda: chain(nn.Flatten(), nn.Linear(128, 6), nn.BatchNorm1d(6), nn.ReLU(), width=6),
    "bn of rows": lambda: chain(nn.Flatten(2), nn.BatchNorm1d(2), width=128),
    "bn of volumes": lambda: chain(nn.Unflatten(2, (2, 4)), nn.BatchNorm3d(2), width=128),
    "bn without weights": lambda: chain(nn.BatchNorm2d(2, affine=False), width=128),
    "group norm": lambda: chain(nn.GroupNorm(2, 2), nn.Flatten(2), nn.GroupNorm(1, 2), width=128),
    "layer norms": lambda: chain(nn.LayerNorm(8), nn.LayerNorm((8, 8)),
                                 nn.LayerNorm(IMAGE, bias=False),
                                 nn.LayerNorm(8, elementwise_affine=False), width=128),
    "rms norms": lambda: chain(nn.RMSNorm(8), nn.RMSNorm((8, 8)), width=128),
    "prelus": lambda: chain(nn.PReLU(2), nn.Flatten(), nn.Linear(128, 9), nn.PReLU(), width=9),
    "instance norm": lambda: chain(nn.InstanceNorm2d(2), width=128),
    "conv1d": lambda: chain(nn.Flatten(2), nn.Conv1d(2, 4, 3, 2, 1),
                            nn.Conv1d(4, 4, 3, groups=2, bias=False), width=120),
    "conv3d": lambda: chain(nn.Unflatten(2, (2, 4)), nn.Conv3d(2, 3, 2), width=63),
    "grouped": lambda: chain(nn.Conv2d(2, 8, 3, padding=1, groups=2), nn.ReLU(),
                             nn.Conv2d(8, 8, 3, 2, 1, groups=8, bias=False), width=128),
    "paddings": lambda: chain(nn.Conv2d(2, 2, (3, 4), padding="same", dilation=(1, 3)), nn.ReLU(),
                              nn.Conv2d(2, 2, 3, padding="valid"),
                              nn.Conv2d(2, 2, 3, padding=(2, 1), padding_mode="circular"),
                              nn.Conv2d(2, 2, 4, padding="same", padding_mode="reflect"), width=96),
    "tied": Tied, "tied table": TiedTable, "own": Own, "encoder": encoder,
    "padding of text": lambda: chain(nn.Embedding(CLASSES, 4, padding_idx=1), width=28),
    "lstm": lambda: Around(LSTM(), outputs, 96),
    "lstm states": lambda: Around(LSTM(), last_states, 24),
    "lstm time first": lambda: Around(nn.LSTM(8, 3, bias=False), outputs_time_first, 48),
    "gru": lambda: Around(nn.GRU(8, 3, 2, batch_first=True), outputs, 48),
    "gru states": lambda: Around(nn.GRU(8, 3, bias=False, batch_first=True), last_states, 3),
    "rnn": lambda: Around(nn.RNN(8, 3, batch_first=True), last_states, 3),
    "relu rnn": lambda: Around(nn.RNN(8, 3, nonlinearity="relu"), outputs_time_first, 48),
    "attention": lambda: Around(Attention(), attention_weights, 128 + 256),
    "attention of heads": lambda: Around(Attention(bias=False), BY_HEAD, 128 + 512),
    "masked attention": lambda: Around(Attention(), masked, 128),
    "masked attention of heads": lambda: Around(Attention(), partial(masked, by_head=True), 128),
    "attention, time first": lambda: Around(nn.MultiheadAttention(8, 2), self_attention, 128),
}  # fmt: skip
DATA = dict.fromkeys(("tied table", "padding of text"), "codes")


def examples(kind, count):
    generator = torch.Generator().manual_seed(1)
    if kind == "codes":
        return torch.randint(0, CLASSES, (count, *TEXT), generator=generator)
    return torch.randn(count, *IMAGE, generator=generator)


def case(build, kind, sizes):
    """Return a module, its layout, a block of different models, and a batch for each."""
    torch.manual_seed(0)
    module = build()
    layout, batch, count = Layout.of(module), max(sizes), len(sizes)
    block = layout.flatten(module).repeat(count, 1)
    for entry in layout.parameters:
        entry.view(block).add_(torch.randn(count, *entry.shape), alpha=0.1)
    labels = torch.randint(0, CLASSES, (count, batch))
    for row, size in enumerate(sizes):
        labels[row, size:] = -1
    return module, layout, block, examples(kind, count * batch), labels


def results(runner, layout, block, *batch, keep=0.0):
    """Return losses, gradients and the models, whose buffers training changes."""
    generator, block = torch.Generator().manual_seed(2), block.clone()
    out = torch.randn(block.shape, generator=generator)
    losses = runner.gradients(block, *batch, out if keep else out.fill_(torch.nan), keep)
    return losses, torch.cat([e.view(out).flatten(1) for e in layout.parameters], 1), block


@pytest.mark.parametrize(("sizes", "keep"), [([4, 3, 2], 0.0), ([6, 6], 0.5)])
@pytest.mark.parametrize("name", CASES)
def test_each_model_as_if_alone(name, sizes, keep):
    module, layout, *batch = case(CASES[name], DATA.get(name), sizes)
    expected = results(OneByOne(module, layout), layout, *batch, sizes, keep=keep)
    found = results(Stacked(module, layout), layout, *batch, sizes, keep=keep)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()
    assert expected[1].norm() > 0.01


OTHERS = ("own", "encoder", "attention", "lstm", "gru", "rnn")  # evaluated one by one


@pytest.mark.parametrize("name", ["conv1d", "conv3d", "grouped", "paddings"])
def test_convolutions_are_the_same_as_groups(name, monkeypatch):
    """What a GPU runs, on the CPU."""
    module, layout, *batch = case(CASES[name], None, [4, 3, 2])
    expected = results(Stacked(module, layout), layout, *batch, [4, 3, 2])
    monkeypatch.setattr("fedalign.network.convolution.looped_conv", grouped_conv)
    found = results(Stacked(module, layout), layout, *batch, [4, 3, 2])
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_bfloat16_differs_by_its_rounding(name):
    module, layout, *batch = case(CASES[name], DATA.get(name), [4, 3, 2])
    expected = results(OneByOne(module, layout), layout, *batch, [4, 3, 2])
    found = results(Stacked(module, layout, bf16=True), layout, *batch, [4, 3, 2])
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours - theirs).norm() <= 0.06 * theirs.norm()


ALONE = {name for name in CASES if any(other in name for other in OTHERS)}


@pytest.mark.parametrize("name", CASES)
def test_each_mix_of_models_as_if_alone(name):
    """Where this is not known, models are evaluated one by one."""
    module, layout, block, x, _ = case(CASES[name], DATA.get(name), [2, 2, 2])
    shares = torch.tensor([[1, 0, 0], [0.2, 0.3, 0.5], [-0.5, 0, 1.5], [0.5, 0.5, 0]])
    try:
        mixtures = Mixtures(module, layout)
    except TypeError:
        assert name in ALONE
        return
    plain = OneByOne(module, layout)
    for own in (shares, None):
        mixtures.load(block, own)
        if name in ALONE:
            with pytest.raises(RuntimeError):
                mixtures.logits(x)
            continue
        found = mixtures.logits(x)
        module.eval()
        for vector, logits in zip(block if own is None else own @ block, found, strict=True):
            plain.bind(vector)
            torch.testing.assert_close(logits, plain.run(x), rtol=1e-4, atol=1e-4)


def test_every_stacked_layer_is_tried():
    tried = {type(layer) for build in CASES.values() for layer in build().modules()}
    assert tried | {nn.Conv2d} >= set(LAYERS)


@pytest.mark.parametrize(
    "name", sorted(BUILTIN["models"].keys() - {"transformer", "torchvision", "timm"})
)
def test_every_model_of_fedalign_is_stacked(name):
    torch.manual_seed(0)
    text = name.startswith("char")
    images = torch.randint(0, 5, (8, *TEXT)) if text else torch.randint(0, 256, (8, 1, 28, 28))
    scale = ((), ()) if text else ((0.3,), (0.2,))
    data = Dataset(images.to(torch.uint8), torch.arange(8) % 5, 5, *scale, "made up")
    small = {"width": 8} if name == "vgg" else {}
    network = Network(load("models", name)(shape=images.shape[1:], classes=5, **small), data, CPU)
    if name == "char-lstm":
        line = "clients train one by one, since on a CPU LSTM layers are faster so (layer 'lstm' (L"
        assert network.stacking.line.startswith(line)
        assert not network._trial.of_training(Stacked(network.module, network.layout))
    else:
        assert network.stacked is not None


class NothingFromTheHost(TorchDispatchMode):
    """Refuses operations whose result the host waits for, or whose shape depends on data."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.name().removeprefix("aten::").split(".")[0]
        assert name not in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "unique2")
        self.made = getattr(self, "made", 0) + (name == "lift_fresh")
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("name", CASES)
def test_a_step_can_be_captured_in_a_graph(name):
    module, layout, *batch = case(CASES[name], DATA.get(name), [4, 3, 2])
    runner, mode = Stacked(module, layout), NothingFromTheHost()
    with mode:
        results(runner, layout, *batch, [4, 3, 2])
    assert mode.made <= 1  # the sizes


@pytest.mark.parametrize("runner", [OneByOne, Stacked])
def test_batch_norm_refuses_a_single_value_however_clients_are_run(runner):
    module, layout, *batch = case(CASES["bn"], None, [4, 1])
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        results(runner(module, layout), layout, *batch, [4, 1])
    module, layout, *batch = case(CASES["bn of rows"], None, [4, 1])  # which is 64 values
    assert results(runner(module, layout), layout, *batch, [4, 1])[0].isfinite().all()


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d])
def test_a_client_without_examples_leaves_batch_norm_as_it_is(kind):
    layers = [nn.Flatten(2)] if kind is nn.BatchNorm1d else []
    module, layout, block, images, labels = case(
        lambda: chain(*layers, *[kind(2)] * 3, width=128), None, [4, 4]
    )
    labels[1] = -1
    for entry in layout.buffers:
        entry.view(block).add_(torch.rand(2, *entry.shape))
    losses, gradient, after = results(
        Stacked(module, layout), layout, block, images, labels, [4, 1]
    )
    assert torch.equal(after[1], block[1])
    assert losses[1] == 0
    assert (gradient[1] == 0).all()
    alone = results(OneByOne(module, layout), layout, block[:1], images[:4], labels[:1], [4])
    torch.testing.assert_close(after[:1], alone[2])
