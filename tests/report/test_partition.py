import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from fedalign.cli import app
from fedalign.report.partition import PartitionCounts, describe, picture, sampled
from tests.pairs import combinations


def made(counts, owned=None):
    counts = np.array(counts)
    return PartitionCounts(
        "made up", counts, int(counts.sum()), int(counts.sum()) if owned is None else owned
    )


def test_statistics_by_hand():
    found = made([[4, 0], [2, 2], [0, 4]])
    assert list(found.sizes) == [4, 4, 4]
    assert list(found.effective_classes) == pytest.approx([1, 2, 1])
    assert list(found.distances) == pytest.approx([1, 0, 1])
    assert found.gini == 0


def test_gini_of_sizes():
    assert made([[0], [0], [0], [8]]).gini == pytest.approx(3 / 4)
    assert made([[1], [3]]).gini == pytest.approx(1 / 4)  # |1 - 3| / (2 * 2 * 2 * 2) twice


def test_a_client_with_nothing_has_no_classes():
    found = made([[0, 0], [3, 1]])
    assert found.effective_classes[0] == 0
    assert np.isfinite(found.effective_classes).all()
    assert "0 to 4 examples each, median 2" in describe(found)


def test_clients_with_the_same_most_frequent_class_stand_together():
    assert list(made([[0, 9], [5, 4], [9, 0], [1, 9]]).order) == [2, 1, 0, 3]


def test_examples_of_several_clients_are_told():
    assert "3 of 6 assigned, and 3 more times to a further client" in describe(
        made([[3], [3]], owned=3)
    )


def test_a_terminal_shows_a_column_a_client_or_a_sample():
    few, many = describe(made([[4, 0], [1, 3]])), describe(made([[1, 2]] * 500))
    assert "class   0 │█░│" in few
    assert "class   1 │ ▓│" in few
    assert "(64 of 500)" in many
    assert max(map(len, many.splitlines())) < 90


@pytest.mark.parametrize(("clients", "classes"), combinations([1, 3, 1000], [1, 10, 100]))
def test_every_size_can_be_drawn(clients, classes, tmp_path):
    counts = np.random.default_rng(0).poisson(2.0, (clients, classes))
    picture(made(counts)).savefig(tmp_path / "x.png", dpi=50)
    assert (tmp_path / "x.png").stat().st_size > 1000


def test_bubbles_are_as_large_as_the_counts():
    (bubbles,) = picture(made([[4, 0], [1, 2]])).axes[0].collections
    assert bubbles.get_offsets().tolist() == [[0, 0], [1, 0], [1, 1]]  # client and class
    assert list(bubbles.get_sizes() / bubbles.get_sizes()[0]) == pytest.approx([1, 1 / 4, 1 / 2])


def test_of_many_clients_the_shares_are_shown():
    (image,) = picture(made([[9, 3], [1, 3]] * 300)).axes[0].images
    shares = image.get_array()  # a row a class, clients by their most frequent class
    assert np.unique(shares[0]).tolist() == [0.25, 0.75]
    assert (np.diff(shares[0]) <= 0).all()


def test_a_sample_is_evenly_spread_and_has_both_ends():
    assert list(sampled(np.arange(101), 3)) == [0, 50, 100]
    assert list(sampled(np.arange(3), 9)) == [0, 1, 2]


def test_the_command_prints_and_draws_each_of_several(tmp_path):
    out = tmp_path / "p.png"
    words = ["partition", "quickstart", "partition.alpha=0.1,10", "--out", str(out)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert "digits, dirichlet (alpha 0.1, min_size 10" in result.output
    assert f"figure in {tmp_path / 'p-2.png'}" in result.output
    for number in (1, 2):
        assert (tmp_path / f"p-{number}.png").stat().st_size > 10_000


@pytest.mark.usefixtures("drawn")
def test_a_run_has_the_picture_too(run):
    folder = run(rounds=1)
    assert (folder / "partition.png").stat().st_size > 5_000
    classes = pd.read_csv(folder / "classes.csv", index_col="client")
    assert classes.shape == (4, 10)
    assert classes.to_numpy().sum() == 300  # `data.max_examples` of the run
