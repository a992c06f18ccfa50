"""Augmentation: what happens to images, and that it is the same wherever they are changed."""

import numpy as np
import pytest
import torch
from torchvision.transforms import functional as theirs

from clients.augment import DEGREES, NAMES, WAYS, Augment
from clients.local import Local
from fedalign.algorithm import Stack
from fedalign.data import Dataset
from fedalign.errors import BadValueError, InputError
from fedalign.masks.plan import MaskPlan
from fedalign.network.random_layers import uniform
from fedalign.rng import rng
from fedalign.settings.registry import parse

KEYS = torch.tensor([[5, -7], [2**31 - 1, -(2**31)], [6, -7]], dtype=torch.int32)


def images(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def drawn(*numbers):
    """A draw that returns these numbers for one image."""
    return lambda place: torch.tensor([[numbers[place]]])


def of_one(name, image, *numbers, **own):
    """A way to change images, on one image `(C, H, W)` and with given random numbers."""
    return WAYS[name](image[None, None], drawn(*numbers), own)[0, 0]


def test_flip_by_hand():
    image = images(3, 4, 5)
    assert torch.equal(of_one("flip", image, 0.4999), theirs.hflip(image))
    assert torch.equal(of_one("flip", image, 0.5), image)


@pytest.mark.parametrize(("shape", "down", "right"), [((3, 32, 16), 4, 2), ((1, 6, 9), 1, 1)])
def test_crop_is_padding_by_an_eighth_and_a_cut_of_the_old_size(shape, down, right):
    image, (height, width) = images(*shape), shape[1:]
    padded = theirs.pad(image, [right, down])
    for top in range(2 * down + 1):
        for left in range(2 * right + 1):
            numbers = (top + 0.5) / (2 * down + 1), (left + 0.5) / (2 * right + 1)
            expected = theirs.crop(padded, top, left, height, width)
            assert torch.equal(of_one("crop", image, *numbers), expected)


def test_cutout_by_hand():
    """A square of 2 around (0, 3): rows -1 and 0, columns 2 and 3 of 4 and 6."""
    image = images(2, 4, 6) | 1
    mean = torch.tensor([10, 20], dtype=torch.uint8).view(2, 1, 1)
    expected = image.clone()
    expected[:, 0, 2:4] = torch.tensor([[10], [20]])
    found = of_one("cutout", image, 0.0, 3.5 / 6, **{"augment mean": mean})
    assert torch.equal(found, expected)


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 20)])
def test_rotate_is_torchvisions(shape):
    """But for pixels that lie half-way between two."""
    own, image = {}, images(*shape)
    channels = (0.5,) * shape[0]
    data = Dataset(image[None], torch.zeros(1).long(), 1, channels, channels, "made up")
    Augment(["rotate"], data, own)
    for number, degrees in enumerate(range(-DEGREES, DEGREES + 1)):
        found = of_one("rotate", image, (number + 0.5) / (2 * DEGREES + 1), **own)
        assert (found != theirs.rotate(image, degrees)).double().mean() < 0.02


def test_color_is_torchvisions_of_grey_images():
    image = images(1, 9, 7)
    for light, contrast in [(0.1, 0.9), (0.95, 0.2), (0.5, 0.5)]:
        expected = theirs.adjust_brightness(image, 0.6 + 0.8 * light)
        expected = theirs.adjust_contrast(expected, 0.6 + 0.8 * contrast).int()
        assert (of_one("color", image, light, contrast).int() - expected).abs().max() <= 1


def test_random_numbers_are_uniform_and_know_nothing_of_one_another():
    keys = torch.randint(-(2**31), 2**31, (400, 2), generator=torch.Generator().manual_seed(0))
    found = torch.stack([uniform(keys.int(), number, 100) for number in range(1, 11)]).double()
    assert found.min() >= 0
    assert found.max() < 1
    counts = torch.histc(found, 64, 0, 1)
    assert ((counts - found.numel() / 64).square() / (found.numel() / 64)).sum() < 120  # chi2, 63
    for axis, size in enumerate(found.shape):
        one, other = found.narrow(axis, 1, size - 1) - 0.5, found.narrow(axis, 0, size - 1) - 0.5
        assert (one * other).mean().abs() < 5 / 12 / one.numel() ** 0.5


def test_images_change_alike_alone_stacked_or_filled_up(data):
    augment = Augment(NAMES, data, {})
    batch = images(3, 10, 1, 6, 6)
    together = augment(batch, KEYS)
    assert together.dtype == torch.uint8
    assert (together != batch).flatten(2).any(2).double().mean() > 0.9
    for k in range(3):
        assert torch.equal(augment(batch[k : k + 1, :4], KEYS[k : k + 1])[0], together[k, :4])
    assert not torch.equal(augment(batch, KEYS.flip(1)), together)


def stack_of(network, data, rows):
    start = network.layout.to_vector(network.initial)
    return Stack(
        network, data, start, start.repeat(len(rows), 1), [np.arange(*own) for own in rows],
        [rng(0, "batches", 1, own[0]) for own in rows], [MaskPlan(0, 0, 0.4)] * len(rows),
    )  # fmt: skip


def test_training_sees_changed_images_in_the_old_order(network, data, monkeypatch):
    """Drawing keys changes neither the batches nor what a client without augmentation does."""
    seen, gradients = [], network.gradients

    def spy(block, own, labels, *rest):
        seen.append((own.clone(), labels))
        return gradients(block, own, labels, *rest)

    monkeypatch.setattr(network, "gradients", spy)
    for augment in ((), NAMES):
        Local(batch_size=8, epochs=2, augment=augment).train(stack_of(network, data, [(0, 30)]))
    plain, changed = seen[:8], seen[8:]
    assert all(torch.equal(a[1], b[1]) for a, b in zip(plain, changed, strict=True))
    assert all((a[0] != b[0]).any() for a, b in zip(plain, changed, strict=True))


OPTIONS = {"augment": NAMES, "label_smoothing": 0.2, "mixup": 0.5, "lr_within_round": "cosine"}


def test_a_stack_with_all_of_it_is_its_clients_one_by_one(network, data):
    client = Local(batch_size=4, epochs=2, lr=0.02, warmup=0.2, **OPTIONS)
    rows = [(0, 11), (11, 20), (20, 26), (26, 29)]
    stack = stack_of(network, data, rows)
    together = client.train(stack)
    for k, own in enumerate(rows):
        alone = stack_of(network, data, [own])
        result = client.train(alone)
        torch.testing.assert_close(stack.block[k], alone.block[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(together.losses[k], result.losses[0], rtol=1e-4, atol=1e-5)
        steps = "normalized_steps"
        assert together.metrics[steps][k] == result.metrics[steps][0]


@pytest.mark.parametrize(
    ("options", "kind", "told"),
    [
        ({"augment": ("flip", "crop")}, "text", "client.augment: flip, crop is for images"),
        ({"augment": ("cutout",)}, "table", "rows of 5 features"),
        ({"mixup": 0.3}, "text", "client.mixup: 0.3 is not allowed: text cannot be mixed"),
    ],
)
def test_what_other_examples_cannot_have_is_refused(options, kind, told):
    labels = torch.zeros(2).long()
    if kind == "text":
        data = Dataset(torch.zeros(2, 7, dtype=torch.uint8), labels, 9, (), (), "made up")
    else:
        data = Dataset(torch.zeros(2, 5), labels, 2, (0.0,) * 5, (1.0,) * 5, "made up")
    with pytest.raises(InputError, match=told):
        Local(**options).check_examples(data.spec)


def test_options_as_they_are_written():
    one = parse("clients", {"name": "local", "augment": "flip"}, "client")
    assert one.options["augment"] == ("flip",)
    with pytest.raises(BadValueError, match="each may be named once"):
        parse("clients", {"name": "local", "augment": ["flip", "flip"]}, "client")
    with pytest.raises(BadValueError, match=r"client\.augment: 'flop' .* 'rotate' or 'color'"):
        parse("clients", {"name": "local", "augment": ["flop"]}, "client")
