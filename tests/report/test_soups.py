"""Tables and figures of ingredients and fusions."""

import pandas as pd
import pytest

from fedalign.errors import InputError
from fedalign.report.drawing import draw
from fedalign.report.page.page import render
from fedalign.report.soups import describe, lines
from fedalign.report.tables import groups

# By seed: accuracies of two clients, of their mean and of the best on held-out examples.
ACCURACIES = {0: (0.5, 0.7, 0.8, 0.5), 1: (0.6, 0.8, 0.8, 0.8)}
NAMES = ("client 0", "client 1", "mean", "best")


@pytest.fixture
def runs(made):
    """Two seeds of an arm; fusions were measured in rounds 1 and 2."""
    found = []
    for seed, accuracies in ACCURACIES.items():
        columns = {"test_accuracy": [0.1, 0.2], "client_accuracy_barrier": [0.9, 0.1 * seed]}
        run = made(f"seed-{seed}", columns | {"seconds": [1, 1]}, seed=seed)
        rows = [
            (number, name, "0", 1.0, own * number / 2, own / 4, own / 2)
            for number in (1, 2)
            for name, own in zip(NAMES, accuracies, strict=True)
        ]
        head = ["round", "fusion", "ingredients", "test_loss", "test_accuracy"]
        head += ["corrupted_accuracy", "held_out_accuracy"]
        pd.DataFrame(rows, columns=head).to_csv(run.path / "fusions.csv", index=False)
        found.append(run)
    return found


def test_lines_are_means_of_the_last_round_and_differences_from_the_chosen_ingredient(runs):
    found = {line.name: line for line in lines(groups(runs))}
    test = {name: own.values["test_accuracy"] for name, own in found.items()}
    assert test["client 1"] == {0: 0.7, 1: 0.8}
    assert test["mean ingredient"] == pytest.approx({0: 0.6, 1: 0.7})
    assert test["highest ingredient"] == {0: 0.7, 1: 0.8}
    # 0.3 and 0: mean 0.15, deviation 0.2121; 12.706 * 0.15
    change = found["mean"].changes["test_accuracy"]
    assert (change.mean, change.half_width) == pytest.approx((0.15, 12.7062 * 0.15), rel=1e-4)
    assert [name for name, own in found.items() if own.changes] == ["mean"]
    text = describe(groups(runs))
    assert "| mean               | 0.8000 ± 0.0000" in text
    assert "test accuracy minus best" in text
    assert "corrupted accuracy minus best" in text
    assert "corrupted accuracy" in text
    page = render(runs)
    assert "Ingredients and fusions" in page
    assert "+0.1500 ± 1.9059" in page


def test_without_a_chosen_ingredient_the_highest_is_the_reference(runs, made):
    for run in runs:
        table = pd.read_csv(run.path / "fusions.csv")
        table[table["fusion"] != "best"].to_csv(run.path / "fusions.csv", index=False)
    (mean,) = [line for line in lines(groups(runs)) if line.name == "mean"]
    assert mean.changes["test_accuracy"].mean == pytest.approx((0.1 + 0) / 2)
    assert describe(groups([made("plain", {"test_accuracy": [0.5]})])) == ""


def test_figures_draw_these_numbers(runs, made):
    (ax,) = draw("fusions", runs)[0].axes
    dots, *marks = ax.lines
    assert list(dots.get_xdata()) == [0.5, 0.7, 0.6, 0.8]
    assert list(dots.get_ydata()) == pytest.approx([0.125, 0.175, 0.15, 0.2])
    places = [(mark.get_xdata()[0], mark.get_ydata()[0]) for mark in marks]
    assert places == [pytest.approx((0.8, 0.2)), pytest.approx((0.65, 0.1625))]
    figure, _ = draw("gain", runs)
    (ax,) = figure.axes  # of the mean alone: the other is an ingredient
    _, points = ax.lines
    assert list(points.get_xdata()) == [0, 0.1]
    assert list(points.get_ydata()) == pytest.approx([0.2, 0.1])
    for run, high in zip(runs, (0.01, 1.0), strict=True):  # far apart
        run.fusions.loc[run.fusions["fusion"] == "client 0", "test_accuracy"] = high
    (ax,) = draw("fusions", runs)[0].axes
    assert (ax.get_xscale(), ax.get_yscale()) == ("logit", "linear")
    (low, high), shown = ax.get_xlim(), ax.lines[0].get_xdata()
    assert low < min(shown) < max(shown) < high < 1
    plain = made("plain", {"test_accuracy": [0.5], "client_accuracy_barrier": [0], "seconds": [1]})
    for kind in ("fusions", "gain"):
        with pytest.raises(InputError, match=r"no run has fusions.csv; evaluation.fusions="):
            draw(kind, [plain])
