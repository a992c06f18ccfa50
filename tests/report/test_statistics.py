from math import isnan

import numpy as np
import pytest
from scipy import stats

from fedalign.report.statistics import Difference, mean_std, paired


def test_three_pairs_by_hand():
    # 0.1, 0.2, 0.3: mean 0.2, sample deviation 0.1, t for 2 degrees of freedom 4.3027
    found = paired({0: 0.6, 1: 0.8, 2: 1.0}, {0: 0.5, 1: 0.6, 2: 0.7})
    assert found.mean == pytest.approx(0.2)
    assert found.half_width == pytest.approx(4.3027 * 0.1 / 3**0.5, rel=1e-4)
    assert found.pairs == 3
    assert not found.significant
    assert str(found) == "+0.2000 ± 0.2484 (n.s.)"


def test_the_interval_is_that_of_the_paired_t_test():
    generator = np.random.default_rng(0)
    ours, theirs = generator.normal(size=(2, 7))
    found = paired(dict(enumerate(ours)), dict(enumerate(theirs)))
    interval = stats.ttest_rel(ours, theirs).confidence_interval(0.95)
    expected = pytest.approx([interval.low, interval.high])
    assert [found.mean - found.half_width, found.mean + found.half_width] == expected


def test_only_shared_seeds_are_paired():
    assert paired({0: 1.0, 5: 9.0}, {0: 0.5, 6: 0.0}).mean == 0.5
    assert paired({0: 1.0}, {1: 0.5}) is None


def test_one_pair_has_no_interval():
    found = paired({0: 0.6}, {0: 0.5})
    assert isnan(found.half_width)
    assert not found.significant
    assert str(found) == "+0.1000 ± –"  # noqa: RUF001


@pytest.mark.parametrize(
    ("mean", "half_width", "significant"),
    [(0.1, 0.05, True), (-0.1, 0.05, True), (0.1, 0.1, False), (0.0, 0.0, False)],
)
def test_significant_is_an_interval_without_0(mean, half_width, significant):
    assert Difference(mean, half_width, 3).significant is significant


def test_means_and_deviations():
    assert mean_std([0.5, 0.7]) == "0.6000 ± 0.1414"
    assert mean_std([0.5]) == "0.5000"
    assert mean_std([1234.56], digits=1) == "1,234.6"
    assert mean_std([]) == mean_std([float("nan")]) == "–"  # noqa: RUF001
