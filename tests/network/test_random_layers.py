"""Random layers: the same masks wherever and however a client trains, and masks like chance."""

import subprocess
import sys
import warnings
from copy import deepcopy
from itertools import product

import pytest
import torch
from torch import nn
from torch.nn import functional

from fedalign.network.network import Network
from fedalign.network.random_layers import KINDS, Draws, count_draws

KEYS = torch.tensor([[5, -7], [2**31 - 1, -(2**31)], [6, -7]], dtype=torch.int32)


def masks(count, width, layers=1, batch=1, share=0.5, seed=0):
    """Masks of so many clients: `(layers, count, batch, width)` float."""
    draws, generator = Draws(), torch.Generator().manual_seed(seed)
    draws.keys = torch.randint(-(2**31), 2**31, (count, 2), generator=generator).int()
    draws.begin(slice(0, count))
    shape = torch.Size([count * batch, width])
    found = [draws.kept(shape, share, torch.device("cpu")) for _ in range(layers)]
    return torch.stack(found).view(layers, count, batch, width).double()


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_as_many_are_kept_as_asked_for(share):
    kept = masks(50, 400, layers=5, batch=4, share=share)
    deviation = (share * (1 - share)) ** 0.5
    assert abs(kept.mean() - share) < 4 * deviation / kept.numel() ** 0.5
    for axes in [(0, 1, 2), (0, 1, 3), (0, 2, 3), (1, 2, 3)]:  # by place, row, client and layer
        means = kept.mean(axes)
        spread = deviation / (kept.numel() / means.numel()) ** 0.5
        far = (means - share).abs().max() / spread
        assert far < 5
        if len(means) > 10:
            assert 0.7 < (means - share).square().mean().sqrt() / spread < 1.4


def test_masks_know_nothing_of_one_another():
    """The correlation of masks of neighbours, of two clients, and of two layers is chance."""
    kept = masks(40, 500, layers=3, batch=5) * 2 - 1
    pairs = [
        (kept.narrow(axis, 0, size - by), kept.narrow(axis, by, size - by))
        for axis, size in enumerate(kept.shape)
        for by in (1, 2, 4, 64, 256)
        if by < size
    ]
    corners = kept[..., :-1, :-1] * kept[..., 1:, 1:], kept[..., :-1, 1:] * kept[..., 1:, :-1]
    for one, other in [*pairs, corners]:
        assert (one * other).mean().abs() < 4 / one.numel() ** 0.5


@pytest.mark.parametrize("bit", range(64))
def test_keys_that_differ_in_one_bit_have_masks_that_have_nothing_in_common(bit):
    draws, flipped = Draws(), torch.tensor([1 << bit]) if bit < 63 else torch.tensor([-(2**63)])
    draws.keys = torch.stack([torch.zeros(2, dtype=torch.int32), flipped.view(torch.int32)])
    draws.begin(slice(0, 2))
    one, two = draws.kept(torch.Size([2, 10_000]), 0.5, torch.device("cpu"))
    assert abs((one == two).double().mean() - 0.5) < 0.025


def lowbias32(x):
    """The hash, in Python's integers."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ x >> shift) * factor % 2**32
    return x ^ x >> 16


@pytest.mark.parametrize("share", [0.25, 0.5, 1 - 1e-12])
def test_a_mask_is_plain_arithmetic_with_whole_numbers(share):
    draws = Draws()
    draws.keys = KEYS
    draws.begin(slice(0, 3))
    for call in (1, 2, 3):
        found = draws.kept(torch.Size([6, 4, 2]), share, torch.device("cpu")).view(3, 2, 8)
        for k, row, place in product(range(3), range(2), range(8)):
            mixed = 0x9E3779B9 * call % 2**32
            first, second = (lowbias32(key % 2**32 ^ mixed) for key in KEYS[k].tolist())
            of_row = lowbias32(lowbias32(row) ^ first)
            bits = lowbias32(of_row ^ lowbias32(lowbias32(place) ^ second))
            signed = bits - 2**32 if bits >= 2**31 else bits
            assert found[k, row, place] == (signed < share * 2**32 - 2**31)


CHANNELS = [  # a layer, its input, and how many leading axes are dropped each on its own
    *((nn.Dropout, shape, len(shape)) for shape in [(5000,), (90, 60), (90, 6, 5, 4)]),
    (nn.AlphaDropout, (90, 60, 3), 3),
    *((nn.Dropout1d, shape, lead) for shape, lead in [((2000, 4), 1), ((90, 60, 3), 2)]),
    *((nn.Dropout2d, shape, 2) for shape in [(90, 60), (90, 60, 3), (90, 60, 3, 4)]),
    *(
        (nn.Dropout3d, shape, lead)
        for shape, lead in [((2000, 3, 2, 2), 1), ((90, 60, 3, 2, 2), 2)]
    ),
    (nn.FeatureAlphaDropout, (90, 60, 3, 4), 2),
]


@pytest.mark.parametrize(("kind", "shape", "lead"), CHANNELS)
def test_each_layer_drops_what_pytorchs_does(kind, shape, lead):
    """As large a share, as whole channels, and scaled alike."""
    module = nn.Sequential(kind(0.25))
    count_draws(module).keys = KEYS
    x = torch.ones(shape)
    with warnings.catch_warnings(action="ignore"), torch.random.fork_rng():
        theirs = kind(0.25)(x)
    found = module(x)
    dropped = theirs.unique()[0]
    assert found.unique().tolist() == pytest.approx(theirs.unique().tolist(), abs=1e-6)
    for y in (found, theirs):
        assert (y == y.unique()[0]).double().mean() == pytest.approx(0.25, abs=0.05)
        flat = y.reshape(*shape[:lead], -1)
        assert (flat == flat[..., :1]).all()
    assert not dropped.isnan()
    assert torch.equal(module.eval()(x), x)
    assert str(module[0]) == f"Counted{kind(0.25)}"


@pytest.mark.parametrize("kind", KINDS)
def test_all_or_nothing_may_be_dropped(kind):
    for p, expected in ((0.0, 1.0), (1.0, 0.0)):
        module = nn.Sequential(kind(p))
        count_draws(module)
        assert (module(torch.ones(4, 3, 2, 2)) == expected).all()


class Drop(nn.Module):
    """Drops pixels, channels, neurons twice by one layer, and numbers like SELU's."""

    def __init__(self):
        super().__init__()
        self.drop, self.conv, self.alpha = nn.Dropout(0.3), nn.Conv2d(1, 8, 3), nn.AlphaDropout(0.2)
        self.channels, self.a, self.b = nn.Dropout2d(0.4), nn.Linear(128, 32), nn.Linear(32, 3)

    def forward(self, x):
        x = self.channels(self.conv(self.drop(x))).flatten(1)
        return self.b(self.alpha(self.drop(self.a(x).relu())))


@pytest.fixture
def network(data):
    torch.manual_seed(0)
    return Network(Drop(), data, torch.device("cpu"))


def step(network, data, rows, sizes, keys=KEYS):
    """Losses and gradients of these of three clients, with batches of such sizes."""
    block = network.layout.to_vector(network.initial).repeat(len(rows), 1)
    block += torch.arange(3)[rows][:, None] / 100
    index = torch.arange(30).view(3, 10)[rows][:, : max(sizes)]
    labels = data.labels[index]
    for k, size in enumerate(sizes):
        labels[k, size:] = -1
    network.draws.keys = None if keys is None else keys[rows]
    found = torch.full_like(block, torch.nan)
    losses = network.gradients(block, data.images[index], labels, sizes, found)
    found = [entry.view(found).flatten(1) for entry in network.layout.parameters]
    return torch.cat([losses[:, None], *found], 1)


def test_a_client_drops_the_same_in_any_stack(network, data):
    """A batch that is filled up for the others' sake changes nothing either."""
    together = step(network, data, [0, 1, 2], [10, 7, 3])
    assert network.stacked is not None
    for k, size in enumerate([10, 7, 3]):
        alone = step(network, data, [k], [size])
        torch.testing.assert_close(together[k], alone[0], rtol=1e-4, atol=1e-5)
        assert torch.equal(alone, step(network, data, [k], [size]))
        assert not torch.equal(alone, step(network, data, [k], [size], KEYS.flip(1)))
    without = step(network, data, [0, 1, 2], [10, 7, 3], None)  # as if all keys were 0
    zeros = step(network, data, [0, 1, 2], [10, 7, 3], torch.zeros_like(KEYS))
    assert torch.equal(without, zeros)


def test_masks_are_the_same_to_the_bit_alone_stacked_or_filled_up():
    draws, found = Draws(), {}
    draws.keys = KEYS
    for rows, batch in [((0, 3), 10), *(((k, k + 1), size) for k in range(3) for size in (10, 4))]:
        draws.begin(slice(*rows))
        shape = torch.Size([(rows[1] - rows[0]) * batch, 3, 5])
        layers = [draws.kept(shape, 0.6, torch.device("cpu")) for _ in range(2)]
        found[rows, batch] = torch.stack(layers).view(2, -1, batch, 3, 5)
    for k in range(3):
        assert torch.equal(found[(k, k + 1), 10][:, 0], found[(0, 3), 10][:, k])
        assert torch.equal(found[(k, k + 1), 4][:, 0], found[(0, 3), 10][:, k, :4])


def test_a_copy_of_the_module_draws_the_same_and_a_twin_of_the_network_apart(network):
    assert deepcopy(network.module).drop.draws is network.draws
    twin = network.twin()
    assert twin.module.drop.draws is twin.draws is not network.draws


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn, self.fc = nn.LSTM(6, 4, 2, dropout=0.5, batch_first=True), nn.Linear(24, 3)

    def forward(self, x):
        return self.fc(self.rnn(x[:, 0])[0].flatten(1))


class Attending(nn.Module):
    def __init__(self, p):
        super().__init__()
        self.p, self.fc = p, nn.Linear(36, 3)

    def forward(self, x):
        p = self.p if self.training else 0.0
        return self.fc(functional.scaled_dot_product_attention(x, x, x, dropout_p=p).flatten(1))


def functional_dropout(p):
    module = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    module[1].register_forward_hook(lambda _module, _inputs, out: functional.dropout(out, p))
    return module


@pytest.mark.parametrize(
    "build",
    [Recurrent, lambda: Attending(0.5), lambda: functional_dropout(0.5),
     lambda: nn.Sequential(nn.Flatten(), nn.Linear(36, 9), nn.RReLU(), nn.Linear(9, 3))],
)  # fmt: skip
def test_what_draws_globally_is_never_stacked(build, data):
    network, before = Network(build(), data, torch.device("cpu")), torch.get_rng_state()
    assert network.stacked is None
    assert network.stacking.reason == "the network draws from the global generator of PyTorch"
    assert torch.backends.cudnn.enabled
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_precision_of_gpus_does_not_matter(precision):
    """PyTorch has two kinds of flags for TF32, and refuses to read the older after the newer."""
    code = f"""
import torch
from fedalign.data import Dataset
from fedalign.network.network import Network
if hasattr(torch.backends.cuda.matmul, "fp32_precision"):
    backends = torch.backends
    for operations in (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn):
        operations.fp32_precision = {precision!r}
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.fc = torch.nn.LSTM(4, 4, 2, dropout=0.5), torch.nn.Linear(4, 2)
    def forward(self, x):
        return self.fc(self.lstm(x.flatten(1, 2))[0][:, -1])
images = torch.zeros(4, 1, 4, 4, dtype=torch.uint8)
data = Dataset(images, torch.arange(4) % 2, 2, (0.5,), (0.5,), "made up")
assert Network(Net(), data, torch.device("cpu")).traits.depends[True]
assert torch.backends.cudnn.enabled
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_could_draw_but_does_not_is_stacked(data):
    for module in (Attending(0.0), functional_dropout(0.0), Drop()):
        network = Network(module, data, torch.device("cpu"))
        assert network.stacked is not None
