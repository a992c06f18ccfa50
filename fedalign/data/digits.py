"""Small handwritten digits that come with fedalign: real data, trained on in seconds."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch

from fedalign.data import Dataset, Part
from fedalign.data.formats import Array, Arrays
from fedalign.data.places import MaxExamples
from fedalign.rng import rng

STORED = Path(__file__).with_name("digits.json")
TEST_EXAMPLES = 360


@dataclass(frozen=True)
class Digits:
    """Small handwritten digits: 1,437 + 360 grey images of 8x8 (UCI), included in fedalign.

    The test part of UCI's "Optical Recognition of Handwritten Digits" (Alpaydin and Kaynak 1998,
    licence CC BY 4.0), in the order of scikit-learn's `load_digits`.
    """

    max_examples: MaxExamples = None

    def load(self, part: Part) -> Dataset:
        """Return one part; the 360 test examples are always the same.

        Stored pixels are 0..16; they are scaled to 0..255 and rounded.
        """
        pixels, labels = read_digits()
        order = rng(0, "digits", "test").permutation(len(labels))
        chosen = order[TEST_EXAMPLES:] if part == "train" else order[:TEST_EXAMPLES]
        images = np.rint(pixels[chosen, None] * (255 / 16)).astype(np.uint8)
        dataset = Dataset(
            images=torch.from_numpy(images),
            labels=torch.from_numpy(labels[chosen]),
            classes=10,
            mean=(0.3048,),
            std=(0.3759,),
            source=f"UCI handwritten digits that come with fedalign, {part} part, 8x8 pixels",
        )
        return dataset.subset(self.max_examples) if part == "train" else dataset


@cache
def read_digits() -> Arrays:
    """Return pixels `(1797, 8, 8)` uint8, 0..16, and labels `(1797,)` int64, in stored order."""
    stored = json.loads(STORED.read_text(encoding="utf-8"))
    pixels = [[int(digit, 17) for digit in image] for image in stored["images"]]
    labels: Array = np.array([int(label) for label in stored["labels"]], np.int64)
    return np.array(pixels, np.uint8).reshape(-1, 8, 8), labels
