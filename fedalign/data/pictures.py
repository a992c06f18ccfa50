"""Image files, decoded by Pillow."""

import stat
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from fedalign.data.formats import Array
from fedalign.errors import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
CHANNELS = {"L": 1, "RGB": 3}  # channels of the Pillow modes that are allowed

_DAMAGED = (OSError, EOFError, ValueError, SyntaxError, struct.error, zlib.error)


def pixels(path: Path) -> Array:
    """Return an image `(C, H, W)` uint8: one channel for grey, three for colour.

    Raises:
        InputError: The file is damaged, or has another mode, which would need a conversion.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # of a pipe nobody knows whether it ever ends
            raise ValueError("not a file")
        with Image.open(path) as image:
            _check(path, image)
            image.load()
            array = np.asarray(image)
    except (*_DAMAGED, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: not a readable image: {error}") from error
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def _check(path: Path, image: Image.Image) -> None:
    # Pillow silently reduces 16-bit colours to 8 bits; only `tile` still shows it.
    deep = " of 16 bits" if ";16" in str(getattr(image, "tile", "")) else ""
    if image.mode not in CHANNELS or deep:
        allowed = "L (grey, 1 channel) and RGB (3 channels), of 8 bits, are allowed"
        raise InputError(f"{path}: mode {image.mode}{deep}; {allowed}")
