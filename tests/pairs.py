"""Combinations of parameters, of which the quick lane takes a share."""

from itertools import product

import pytest


def combinations(*axes):
    """Return all combinations of the axes' values, the shortest axis last.

    Those are slow that are not needed for each value of an axis to meet each one of another.
    """
    share = len(axes[-1])
    places = product(*(range(len(axis)) for axis in axes))
    return [
        pytest.param(*combination, marks=[pytest.mark.slow] if sum(place) % share else [])
        for combination, place in zip(product(*axes), places, strict=True)
    ]
