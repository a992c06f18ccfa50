"""The digits that come with scikit-learn: a real task without a download, trained in seconds."""

from dataclasses import dataclass

import numpy as np
import torch

from fedalign.data import Dataset, Part
from fedalign.data.places import MaxExamples
from fedalign.rng import rng

TEST_EXAMPLES = 360


@dataclass(frozen=True)
class Digits:
    """Small handwritten digits from scikit-learn: 1,437 + 360 grey images of 8x8; no download."""

    max_examples: MaxExamples = None

    def load(self, part: Part) -> Dataset:
        """Return one part; which 360 examples are the test part is fixed.

        The pixels, 0..16 in the file, are scaled to 0..255 and rounded.
        """
        # Imported here because scikit-learn takes a second and other data sets do without.
        from sklearn.datasets import load_digits

        digits = load_digits()
        order = rng(0, "digits", "test").permutation(len(digits.target))
        chosen = order[TEST_EXAMPLES:] if part == "train" else order[:TEST_EXAMPLES]
        pixels = np.rint(digits.images[chosen, None] * (255 / 16)).astype(np.uint8)
        dataset = Dataset(
            images=torch.from_numpy(pixels),
            labels=torch.from_numpy(digits.target[chosen].astype(np.int64)),
            classes=10,
            mean=(0.3048,),
            std=(0.3759,),
            source=f"UCI optical digits of scikit-learn (load_digits), {part} part, 8x8 pixels",
        )
        return dataset.subset(self.max_examples) if part == "train" else dataset
