"""Corrupted copies of images: by hand, and what each must leave as it is."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from fedalign.data.corruptions import CORRUPTIONS, corrupted
from fedalign.settings.corruptions import ALL


@pytest.fixture(scope="module")
def images():
    """20 images of 3x12x16, smooth ones."""
    waves = (
        torch.linspace(0, 3, 12)[:, None]
        + torch.linspace(0, 2, 16)
        + torch.arange(3)[:, None, None]
    )
    phases = torch.arange(20)[:, None, None, None] / 10
    return (127 + 90 * torch.sin(waves + phases)).to(torch.uint8)


def test_the_settings_name_all_of_them():
    assert list(CORRUPTIONS) == list(ALL)
    assert all(len(levels) == 5 for _, levels in CORRUPTIONS.values())


@pytest.mark.parametrize("name", ALL)
def test_each_is_the_same_every_time_and_worse_the_more_severe(name, images):
    copies = [corrupted(images, name, severity) for severity in (1, 3, 5)]
    assert torch.equal(copies[0], corrupted(images, name, 1))
    assert all(own.dtype == torch.uint8 and own.shape == images.shape for own in copies)
    far = [float((own.float() - images.float()).square().mean()) for own in copies]
    assert 0 < far[0] < far[1] < far[2]


def test_noise_has_the_mean_and_deviation_that_it_says():
    grey = torch.full((500, 1, 10, 10), 127, dtype=torch.uint8)
    white = 127 / 255
    for name, severity, deviation in (
        ("gaussian_noise", 2, 0.08),
        ("shot_noise", 1, (white / 100) ** 0.5),  # Poisson's of 100 photons per white pixel
    ):
        found = corrupted(grey, name, severity).double() / 255
        assert float(found.mean()) == pytest.approx(white, abs=0.002)
        assert float(found.std()) == pytest.approx(deviation, rel=0.02)
    found = corrupted(grey, "impulse_noise", 4)
    shares = [float((found == value).double().mean()) for value in (0, 127, 255)]
    assert shares == pytest.approx([0.05, 0.9, 0.05], abs=0.003)


def test_brightness_contrast_and_pixels_by_hand():
    image = torch.tensor([[0, 100], [200, 240]], dtype=torch.uint8).view(1, 1, 2, 2)
    brighter = [round(min(255, own + 0.2 * 255)) for own in (0, 100, 200, 240)]
    assert corrupted(image, "brightness", 2).flatten().tolist() == brighter
    flat = [round(135 + 0.5 * (own - 135)) for own in (0, 100, 200, 240)]  # the mean is 135
    assert corrupted(image, "contrast", 2).flatten().tolist() == pytest.approx(flat, abs=1)
    blocks = torch.tensor([[10, 30, 0, 0], [50, 70, 0, 8]], dtype=torch.uint8).repeat(2, 1)
    small = corrupted(blocks.view(1, 1, 4, 4), "pixelate", 3)[0, 0]  # half as many pixels
    assert small.tolist() == [[40, 40, 2, 2]] * 4


def test_blur_and_jpeg_are_what_their_libraries_make(images):
    from scipy.ndimage import gaussian_filter

    blurred = gaussian_filter(images[7, 1].numpy() / 255.0, 1.0, mode="nearest") * 255
    assert corrupted(images, "gaussian_blur", 4)[7, 1].numpy() == pytest.approx(blurred, abs=0.51)
    for picture in (images[:2], images[:2, :1]):
        file = io.BytesIO()
        Image.fromarray(picture[1].movedim(0, 2).squeeze().numpy()).save(file, "JPEG", quality=40)
        expected = torch.from_numpy(np.array(Image.open(file)))
        found = corrupted(picture, "jpeg_compression", 3)[1].movedim(0, 2).squeeze()
        assert torch.equal(found, expected)


def test_images_turn_about_their_middle_to_both_sides():
    """A dot right of the middle, at (0, 5) pixels, moves to (∓5 sin 45°, 5 cos 45°)."""
    dots = torch.zeros(50, 1, 13, 13, dtype=torch.uint8)
    dots[:, 0, 6, 11] = 255
    places = [divmod(int(own.argmax()), 13) for own in corrupted(dots, "rotation", 5)[:, 0]]
    assert set(places) == {(2, 10), (10, 10)}
    wide = torch.full((4, 1, 4, 12), 200, dtype=torch.uint8)
    turned = corrupted(wide, "rotation", 5)
    assert turned[0, 0, 1:3, 5:7].eq(200).all()
    assert turned[0, 0, :, 0].eq(0).any()  # from outside
