import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedalign.landscape.barriers import (
    Curve,
    accuracy_barrier,
    barriers,
    fusion_gap,
    instability,
    loss_barrier,
    midpoint_gap,
    rebasin_barrier,
)

values = st.lists(st.floats(0, 10, allow_nan=False), min_size=3, max_size=20)


def curve(losses, accuracies):
    return Curve("x", np.linspace(0, 1, len(losses)), np.array(losses), np.array(accuracies))


def test_by_hand():
    bumpy = curve([1.0, 3.0, 2.0], [0.8, 0.35, 0.6])
    assert loss_barrier(bumpy) == 1.5  # 3.0 over the line's 1.5
    assert accuracy_barrier(bumpy) == pytest.approx(0.5)  # 0.35 under the line's 0.7


def test_a_line_has_none():
    straight = curve([1.0, 1.5, 2.0], [0.8, 0.7, 0.6])
    assert loss_barrier(straight) == 0
    assert accuracy_barrier(straight) == pytest.approx(0)


def test_below_the_line_counts_as_none():
    assert loss_barrier(curve([1.0, 0.2, 1.0], [0.5, 0.9, 0.5])) == 0


def test_models_that_know_nothing():
    assert accuracy_barrier(curve([2.0, 2.0, 2.0], [0.0, 0.0, 0.0])) == 0


@given(value=st.floats(0, 1, allow_nan=False), points=st.integers(3, 30))
def test_identical_models_have_exactly_none(value, points):
    flat = curve([value] * points, [value] * points)
    assert loss_barrier(flat) == 0
    assert accuracy_barrier(flat) == 0


@given(values)
def test_never_below_zero(losses):
    assert loss_barrier(curve(losses, losses)) >= 0


def test_an_end_is_no_barrier_to_the_bit():
    """0.7 + (0.1 - 0.7) is a little less than 0.1 in floating point."""
    losses = np.array([0.7, 0.0, 0.1])
    assert losses[0] + (losses[-1] - losses[0]) < losses[-1]
    assert loss_barrier(Curve("global", np.linspace(0, 1, 3), losses, 1 - losses)) == 0


def test_every_barrier_by_hand():
    uneven = curve([1.0, 4.0, 3.0], [0.8, 0.35, 0.6])
    assert barriers(uneven) == pytest.approx(
        {
            "ends_loss": 2.0,
            "midpoint_loss": 4.0,
            "ends_accuracy": 0.7,
            "midpoint_accuracy": 0.35,
            "loss_barrier": 2.0,  # 4 over the line's 2
            "accuracy_barrier": 0.5,
            "instability": 0.35,  # error 0.65 over the mean end's 0.3
            "rebasin_barrier": 2.0,
            "midpoint_loss_gap": 2.0,
            "midpoint_accuracy_gap": 0.35,
        }
    )


def test_the_mean_of_the_ends_and_the_line_between_them_differ_where_one_end_is_poor():
    descent = curve([4.0, 3.0, 2.0, 1.0, 0.0], [0.0, 0.2, 0.4, 0.6, 0.8])
    assert loss_barrier(descent) == 0
    assert rebasin_barrier(descent) == 2.0  # the poor end itself is over the mean
    assert instability(descent) == pytest.approx(0.4)


def test_what_lies_beyond_the_end_is_no_barrier():
    inside = curve([1.0, 3.0, 2.0], [0.8, 0.35, 0.6])
    alphas = np.array([0, 0.5, 1.0, 1.5])
    beyond = Curve("x", alphas, np.append(inside.losses, 9), np.append(inside.accuracies, 0))
    assert barriers(beyond) == barriers(inside)


def test_a_middle_without_a_point_is_interpolated():
    even = curve([1.0, 3.0, 5.0, 1.0], [1.0, 0.5, 0.5, 1.0])
    assert midpoint_gap(even) == pytest.approx((3.0, 0.5))


def test_the_fusion_gap_by_hand():
    gap = fusion_gap((2.0, 0.5), [(1.0, 0.8), (3.0, 0.6)], [3, 1])
    assert gap == pytest.approx((2.0 - 1.5, 0.75 - 0.5))
