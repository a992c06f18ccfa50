import hashlib

import torch

from fedalign.data.digits import Digits, read_digits


def test_they_are_those_of_scikit_learn():
    """Digests of `load_digits()` of scikit-learn 1.9.1: its images and its target, as bytes."""
    pixels, labels = read_digits()
    assert (pixels.shape, pixels.dtype, labels.dtype) == ((1797, 8, 8), "uint8", "int64")
    digests = [hashlib.sha256(a.astype("uint8").tobytes()).hexdigest() for a in (pixels, labels)]
    assert digests == [
        "8f26b2bd9d135c256808f68f14fdabddde6d9c7f869ae419704b051f0f14b3b3",
        "8ba4f891220f5e4c9c819638d1602d74b83618f167043c6da52a2a247841ddf0",
    ]


def test_parts_are_fixed_disjoint_and_whole():
    train, test = Digits().load("train"), Digits().load("test")
    assert (train.images.shape, test.images.shape) == ((1437, 1, 8, 8), (360, 1, 8, 8))
    assert torch.equal(train.images, Digits().load("train").images)
    # 1,797 images: 178, 182, 177, 183, 181, 182, 181, 179, 174, 180 of the ten classes.
    both = train.labels.bincount() + test.labels.bincount()
    assert both.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


def test_pixels_are_scaled_from_16_to_255_steps():
    images = Digits().load("train").images
    assert sorted(images.unique().tolist()) == [round(value * 255 / 16) for value in range(17)]


def test_mean_and_std_are_those_of_the_training_part():
    train = Digits().load("train")
    pixels = train.images.double() / 255
    assert train.mean == (round(pixels.mean().item(), 4),)
    assert train.std == (round(pixels.std(unbiased=False).item(), 4),)


def test_max_examples_limits_the_training_part_only():
    assert len(Digits(max_examples=100).load("train")) == 100
    assert len(Digits(max_examples=100).load("test")) == 360
