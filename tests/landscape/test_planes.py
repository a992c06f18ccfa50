import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedalign.landscape.planes import measured, plane, rows_of

CORNERS = ("a", "b", "c")


def models(seed, size=7):
    draw = torch.Generator().manual_seed(seed)
    return {name: torch.randn(size, generator=draw) for name in CORNERS}


@given(st.integers(0, 1000), st.integers(3, 6))
def test_places_are_distances_in_weight_space(seed, side):
    own = models(seed)
    found = plane("plane:x", CORNERS, own, side)
    assert found.places.shape == (3 + side * side, 2)
    at = [sum(share * own[name].double() for name, share in mix.items()) for mix in found.mixes()]
    for one in (0, 3, len(at) - 1):
        for two in (1, 2, 5):
            apart = np.linalg.norm(found.places[one] - found.places[two])
            assert float((at[one] - at[two]).norm()) == pytest.approx(apart, rel=1e-6, abs=1e-9)


def test_corners_are_the_models_and_the_grid_reaches_beyond():
    found = plane("plane:x", CORNERS, models(0), 5)
    assert found.mixes()[:3] == [{"a": 1.0}, {"b": 1.0}, {"c": 1.0}]
    np.testing.assert_allclose(found.shares.sum(1), 1)
    assert found.places[3:].min(0) == pytest.approx(
        found.places[:3].min(0) - 0.25 * np.ptp(found.places[:3], axis=0)
    )
    assert found.places[0] == pytest.approx([0, 0])
    assert found.places[1][1] == 0


def test_models_on_one_line_have_no_plane():
    own = models(1)
    half = own | {"c": 0.5 * own["a"] + 0.5 * own["b"]}
    assert plane("plane:x", CORNERS, half, 5) is None
    assert plane("plane:x", CORNERS, own | {"b": own["a"]}, 5) is None
    assert plane("plane:x", CORNERS, own | {"c": own["a"]}, 5) is None
    assert plane("plane:x", CORNERS, own | {"c": own["a"] * float("nan")}, 5) is None


def test_rows_name_the_corners():
    found = plane("plane:x", CORNERS, models(0), 3)
    points = [(float(i), i / 100) for i in range(12)]
    rows = list(rows_of(measured(found, points)))
    assert [row[:2] for row in rows[:4]] == [
        ("plane:x", "a"), ("plane:x", "b"), ("plane:x", "c"), ("plane:x", ""),
    ]  # fmt: skip
    assert rows[5][4:] == (5.0, 0.05)
