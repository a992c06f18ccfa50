import numpy as np
import pytest

from fedalign.errors import InputError
from fedalign.report.comparison import compare
from fedalign.report.notes import method

ACCURACIES = {  # by strategy and alpha, for seeds 0, 1, 2
    ("fedavg", 0.1): [0.70, 0.72, 0.74],
    ("fedpfn", 0.1): [0.73, 0.74, 0.75],
    ("fedpnu", 0.1): [0.60, 0.63, 0.63],
    ("fedavg", 1.0): [0.80, 0.81, 0.82],
    ("fedpfn", 1.0): [0.90],
}


@pytest.fixture
def runs(made):
    return [
        made(
            f"{name}-{alpha}-{seed}",
            {"test_accuracy": [0, value], "test_loss": [1, 1 - value]},
            seed=seed,
            rounds=2,
            strategy={"name": name} | ({} if name == "fedavg" else {"fixed_ratio": 0.4}),
            client={"name": "fedpnu" if name == "fedpnu" else "local"},
            partition={"name": "dirichlet", "alpha": alpha},
        )
        for (name, alpha), values in ACCURACIES.items()
        for seed, value in enumerate(values)
    ]


def of(found, *names):
    """Labels with the named values of each arm."""
    return {arm.label: tuple(getattr(arm, name) for name in names) for arm in found.arms}


def test_arms_means_and_paired_differences_by_hand(runs):
    found = compare(runs, at="final")
    # what the strategy decides, the client, makes no arms and is named
    assert found.by == ["strategy.name", "partition.alpha"]
    assert "arms also differ in client.name (local, fedpnu)" in found.notes
    assert of(found, "mean", "std", "n")["fedavg, alpha 0.1"] == pytest.approx((0.72, 0.02, 3))
    assert list(of(found)) == [
        *("fedavg, alpha 0.1", "fedpfn, alpha 0.1", "fedpnu, alpha 0.1"),
        *("fedavg, alpha 1.0", "fedpfn, alpha 1.0"),
    ]
    first, second = "fedavg, alpha 0.1", "fedavg, alpha 1.0"
    assert list(found.baselines) == [first, first, first, second, second]
    assert found.best == [False, True, False, False, True]
    # 0.03, 0.02, 0.01: mean 0.02, deviation 0.01, so t = 2 * sqrt(3), p = 0.0742
    _, pfn, pnu, _, one = found.differences
    numbers = (pfn.mean, pfn.half_width, pfn.p, pfn.pairs)
    assert numbers == pytest.approx((0.02, 0.02484, 0.07418, 3), abs=1e-5)
    # -0.10, -0.09, -0.11: t = 10 * sqrt(3), p = 0.00332; twice that by Holm among two
    assert (pnu.p, pnu.adjusted) == pytest.approx((0.003316, 0.006633), abs=1e-6)
    assert pfn.adjusted == pfn.p
    assert (pnu.significant, pfn.significant, one.significant) == (True, False, False)
    assert (one.mean, one.pairs) == pytest.approx((0.1, 1))
    assert np.isnan([one.half_width, one.p, found.arms[-1].std]).all()
    assert "without seeds 1, 2, which others have: fedpfn, alpha 1.0" in found.notes
    said = method(found)
    for part in ("test_accuracy (higher is better): last round.", "for 2 comparisons by Holm's"):
        assert part in said


def test_what_differs_within_an_arm_is_named_and_splits_it(runs):
    found = compare(runs, ["strategy"], at="final")
    assert list(found.split) == ["partition.alpha"]
    assert len(found.arms) == 5
    assert found.notes[0].endswith("so arms are split by partition.alpha (0.1, 1.0)")
    assert compare(runs, ["strategy", "partition.alpha"], at="final").split == []


def test_of_losses_the_smallest_is_the_best(runs):
    found = compare(runs, metric="test_loss", at="best")
    assert found.best == [False, True, False, False, True]


@pytest.mark.parametrize(
    ("given", "against"),
    [
        ("fedpfn", ["fedpfn, alpha 0.1"] * 3 + ["fedpfn, alpha 1.0"] * 2),
        ("alpha 1.0", ["fedavg, alpha 1.0"] * 2 + ["fedpfn, alpha 1.0"] * 2 + [None]),
        ("fedpnu, alpha 0.1", ["fedpnu, alpha 0.1"] * 5),
    ],
)
def test_a_baseline_is_an_arm_or_a_setting(runs, given, against):
    assert list(compare(runs, at="final", baseline=given).baselines) == against


def test_an_arm_without_the_option_is_a_baseline_for_all_its_values(made):
    ratios = [None, 0.2, 0.8]
    found = compare(
        [
            made(str(ratio), {"test_accuracy": [0.5]}, strategy={"name": name} | own)
            for ratio in ratios
            for name, own in [("fedpfn", {"fixed_ratio": ratio}) if ratio else ("fedavg", {})]
        ]
    )
    assert list(found.baselines) == ["fedavg"] * 3
    assert list(of(found)) == ["fedavg", "fedpfn, fixed_ratio 0.2", "fedpfn, fixed_ratio 0.8"]


def test_runs_that_do_not_count_are_named(made):
    one = made("a", {"test_accuracy": [0.5]}, seed=0)
    copy = made("copy", {"test_accuracy": [0.5]}, seed=0, out="elsewhere")
    half = made("half", {"test_accuracy": [0.9]}, "stopped", seed=1, rounds=3)
    nan = made("nan", {"test_accuracy": ["nan"]}, seed=2)
    inf = made("inf", {"test_accuracy": ["inf"]}, seed=3)
    found = compare([one, copy, half, nan, inf])
    assert of(found, "values") == {"x": ({0: 0.5},)}
    assert found.differences == [None]
    assert found.notes == [
        f"{copy.path}: a copy of {one.path}, whose seed counts once; left out",
        f"{half.path}: not finished, stopped, round 1 of 3; left out",
        f"{nan.path}: no finite test_accuracy there; left out",
        f"{inf.path}: no finite test_accuracy there; left out",
        "test_accuracy was measured in 1 of 5 rounds that count, in every run",
    ]


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"by": ["strateg"]}, "by: 'strateg' is a setting of no run; did you mean 'strategy.name'"),
        ({"metric": "accuracy"}, "metric: 'accuracy' was not measured; did you mean 'test_acc"),
        ({"at": "round=9"}, r"at: no run has a value of 'test_accuracy' \(round 9\)"),
        ({"baseline": "fedavgm"}, "baseline: 'fedavgm' is not an arm; did you mean 'fedavg'"),
    ],
)
def test_names_that_do_not_exist_are_refused(runs, asked, told):
    with pytest.raises(InputError, match=told):
        compare(runs, **asked)


def test_without_a_finished_run_there_is_nothing_to_compare(made):
    with pytest.raises(InputError, match="none of these 1 runs has finished"):
        compare([made("a", {"test_accuracy": [0.5]}, "running")])
