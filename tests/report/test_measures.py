from math import isnan

import pytest

from fedalign.errors import InputError
from fedalign.report.measures import At, Reached, reached
from fedalign.runs.tables import lower_is_better


@pytest.fixture
def run(made):
    accuracies = [0.1, 0.4, 0.3, 0.9, "", 0.7]
    losses = [3, 2, "nan", 1, 1.5, 2.5]
    traffic = {"bytes_down": [10] * 6, "bytes_up": [1, 2, 3, 4, 5, 6]}
    return made("a", {"test_accuracy": accuracies, "test_loss": losses, **traffic})


@pytest.mark.parametrize(
    ("at", "metric", "value"),
    [
        ("last1", "test_accuracy", 0.7),
        ("last4", "test_accuracy", (0.3 + 0.9 + 0.7) / 3),
        ("last99", "test_accuracy", 2.4 / 5),
        ("best", "test_accuracy", 0.9),
        ("best", "test_loss", 1),
        ("final", "test_loss", 2.5),
        ("round=3", "test_accuracy", 0.3),
        ("mean", "test_loss", 2),
        ("sum", "bytes", 81),
        # trapezoids of rounds 1-2, 2-3, 3-4, and 4-6 of double width
        ("area", "test_accuracy", (0.25 + 0.35 + 0.6 + 2 * 0.8) / 5),
    ],
)
def test_one_number_of_a_run_by_hand(run, at, metric, value):
    assert At.read(at).of(run, metric) == pytest.approx(value)


@pytest.mark.parametrize(
    ("at", "metric"), [("round=5", "test_accuracy"), ("round=7", "test_loss"), ("best", "none")]
)
def test_what_was_not_measured_is_not_a_number(run, at, metric):
    assert isnan(At.read(at).of(run, metric))


@pytest.mark.parametrize("text", ["last", "last0", "round=", "round=-1", "Best", "lastN", ""])
def test_other_words_are_refused(text):
    with pytest.raises(InputError, match=r"must be one of lastN, best"):
        At.read(text)


def test_the_way_to_a_target_by_hand(run):
    assert reached(run, "test_accuracy", 0.4) == Reached(2, 23)
    assert reached(run, "test_accuracy", 0.5) == Reached(4, 50)
    assert reached(run, "test_loss", 1) == Reached(4, 50)
    assert reached(run, "test_accuracy", 0.95) is None


def test_which_metrics_are_better_the_lower_they_are():
    lower = ("test_loss", "client_accuracy_barrier", "seconds", "bytes", "fusion_gap_accuracy",
             "client_accuracy_std", "peak_memory", "cpu_seconds")  # fmt: skip
    assert all(map(lower_is_better, lower))
    higher = ("test_accuracy", "client_accuracy_worst10", "client_midpoint_accuracy")
    assert not any(map(lower_is_better, higher))
