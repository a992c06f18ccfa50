from math import isnan

import numpy as np
import pytest
from scipy import stats

from fedalign.report.statistics import Difference, corrected, holm, mean_std, paired


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


def test_pairs_that_all_differ_by_the_same():
    level = paired({0: 0.5, 1: 0.7}, {0: 0.5, 1: 0.7})
    assert (level.mean, level.half_width, level.p) == (0, 0, 1)
    above = paired({0: 0.75, 1: 0.5}, {0: 0.5, 1: 0.25})
    assert (above.mean, above.half_width, above.p) == (0.25, 0, 0)


def test_what_is_not_finite_makes_no_pair():
    one = paired({0: 1.0, 1: float("nan"), 2: float("inf")}, {0: 0.5, 1: 0.5, 2: 0.5})
    assert (one.mean, one.pairs) == (0.5, 1)
    assert paired({0: float("nan")}, {0: 0.5}) is None


@pytest.mark.parametrize(  # by statsmodels 0.15.0: multipletests(ps, method="holm")[1]
    ("ps", "adjusted"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.5, 0.001, 0.02, 0.02, 0.9, 0.3], [1, 0.006, 0.1, 0.1, 1, 0.9]),
        ([0.03], [0.03]),
        ([], []),
    ],
)
def test_holm_as_statsmodels_has_it(ps, adjusted):
    assert holm(ps) == pytest.approx(adjusted)


def test_only_differences_with_a_p_are_counted_and_significant_is_what_remains():
    found = [Difference(0.1, 0.05, 3, 0.02), None, Difference(0.1, float("nan"), 1)]
    found += [Difference(0.1, 0.05, 3, 0.03)]
    first, none, alone, last = corrected(found)
    assert (first.adjusted, last.adjusted) == (0.04, 0.04)
    assert (none, isnan(alone.adjusted)) == (None, True)
    assert (first.significant, alone.significant) == (True, False)
    assert not corrected([*found, found[0]])[0].significant  # 0.06: one more was tried


def test_means_and_deviations():
    assert mean_std([0.5, 0.7]) == "0.6000 ± 0.1414"
    assert mean_std([0.5]) == "0.5000"
    assert mean_std([1234.56], digits=1) == "1,234.6"
    assert mean_std([]) == mean_std([float("nan")]) == "–"  # noqa: RUF001
