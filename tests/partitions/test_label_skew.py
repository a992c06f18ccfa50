"""What label skew looks like: numbers by hand, and moments of the distributions."""

import time

import numpy as np
import pytest

from fedalign.errors import InputError
from partitions.dirichlet import Dirichlet
from partitions.labels import by_mix
from partitions.mixes import DirichletBalanced, DirichletSized, Mixture
from partitions.natural import Natural
from partitions.pachinko import Pachinko
from partitions.pathological import ClassesPerClient, Shards


def generator(seed=0):
    return np.random.default_rng(seed)


def counts_of(partitioner, labels, clients, **more):
    shares = partitioner.split(labels, clients, generator(), **more)
    return np.array([np.bincount(labels[share], minlength=labels.max() + 1) for share in shares])


def test_who_can_get_the_mix_that_he_asks_for_gets_it():
    mixes = np.array([[1.0, 0.0], [0.0, 1.0]])
    classes = [np.arange(6), np.arange(6, 10)]
    owner = by_mix(classes, np.array([6, 4]), lambda who, _: mixes[who], generator())
    assert owner.tolist() == [0] * 6 + [1] * 4


def test_a_class_that_runs_out_goes_to_some_of_all_who_asked():
    """Two clients want class 0 alone, of which there are half as many as they want."""

    def mix(who, left):
        return np.tile([1.0, 0.0] if left[0] else [0.0, 1.0], (len(who), 1))

    got = []
    for seed in range(200):
        owner = by_mix([np.arange(10), np.arange(10, 20)], np.array([10, 10]), mix, generator(seed))
        got.append(int((owner[:10] == 0).sum()))
    assert np.mean(got) == pytest.approx(5, abs=0.5)  # neither comes first
    assert len(set(got)) > 3


@pytest.mark.parametrize("alpha", [0.5, 2.0])
def test_mixes_have_the_moments_of_the_distribution(alpha):
    # Variance (1/C)(1 - 1/C) / (C alpha + 1), and of n draws from it v (1 + C alpha / n); classes
    # that run out make it a little less.
    labels = np.arange(400_000) % 4
    shares = counts_of(DirichletBalanced(alpha=alpha), labels, 2000) / 200
    expected = 0.25 * 0.75 / (4 * alpha + 1) * (1 + 4 * alpha / 200)
    assert 0.85 * expected < shares.var(axis=0).mean() < 1.05 * expected


def test_alpha_means_the_same_class_by_class_and_client_by_client():
    labels = np.arange(300_000) % 10
    spread = []
    for partitioner in (Dirichlet(alpha=1.0), DirichletBalanced(alpha=1.0)):
        counts = counts_of(partitioner, labels, 1000)
        spread.append((counts / counts.sum(axis=1, keepdims=True)).var(axis=0).mean())
    assert spread[1] == pytest.approx(spread[0], rel=0.1)


def test_mixes_follow_the_classes_of_the_data():
    labels = np.repeat([0, 1], [90_000, 10_000])
    counts = counts_of(DirichletBalanced(alpha=1e6), labels, 50)
    assert np.allclose(counts[:, 1] / 2000, 0.1, atol=0.03)


def test_sizes_do_not_depend_on_mixes():
    labels = np.arange(100_000) % 10
    assert set(counts_of(DirichletBalanced(alpha=0.01), labels, 30).sum(axis=1)) == {3333, 3334}
    sizes = counts_of(DirichletSized(alpha=0.1, sigma=0.7), labels, 500).sum(axis=1)
    assert np.log(sizes).std() == pytest.approx(0.7, rel=0.15)
    assert counts_of(DirichletSized(sigma=3, min_size=7), labels, 500).sum(axis=1).min() >= 7


def test_groups_of_clients_have_an_alpha_each():
    labels = np.arange(90_000) % 10
    counts = counts_of(Mixture(alphas="0.05 1000"), labels, 31)
    largest = counts.max(axis=1) / counts.sum(axis=1)
    assert set(counts.sum(axis=1)) == {2903, 2904}
    assert np.median(largest[:16]) > 0.5
    assert largest[16:].max() < 0.25


@pytest.mark.parametrize("alphas", ["", "0.1 x", "0.1 -1", "nan 1", "0.1 inf"])
def test_alphas_that_are_none_are_refused(alphas):
    with pytest.raises(
        InputError, match=r"partition\.alphas: .* is not allowed: give numbers above 0"
    ):
        Mixture(alphas=alphas).split(np.zeros(9, np.int64), 3, generator())


def test_more_groups_than_clients_are_refused():
    with pytest.raises(InputError, match=r"partition\.alphas: 3 groups .* 2 clients"):
        Mixture(alphas="1 1 1").split(np.zeros(9, np.int64), 2, generator())


def test_coarse_labels_are_skewed_and_fine_ones_within_them_are_not():
    labels = np.arange(100_000) % 20
    coarse = labels // 5
    counts = counts_of(Pachinko(alpha=0.05, beta=1e6), labels, 200, groups=coarse)
    by_coarse = counts.reshape(200, 4, 5)
    of_coarse = by_coarse.sum(axis=2)
    assert np.median(of_coarse.max(axis=1) / 500) > 0.8
    main = by_coarse[np.arange(200), of_coarse.argmax(axis=1)]
    within = (main / main.sum(axis=1, keepdims=True))[main.sum(axis=1) > 400]
    assert np.median(within.max(axis=1)) < 0.3


def test_fine_labels_alone_may_be_skewed():
    labels = np.arange(100_000) % 20
    counts = counts_of(Pachinko(alpha=1e6, beta=0.05), labels, 200, groups=labels // 5)
    by_coarse = counts.reshape(200, 4, 5)
    assert np.median(by_coarse.sum(axis=2).max(axis=1) / 500) < 0.35
    assert np.median(by_coarse.max(axis=2) / by_coarse.sum(axis=2)) > 0.7


def test_shards_of_one_class():
    labels = np.arange(80) % 8  # 8 shards of 10: one of each class
    counts = counts_of(Shards(shards_per_client=2), labels, 4)
    assert sorted(map(sorted, counts.tolist())) == [[0] * 6 + [10, 10]] * 4


def test_every_client_has_as_many_classes_and_every_class_as_many_owners():
    labels = np.arange(5000) % 10
    counts = counts_of(ClassesPerClient(classes_per_client=3), labels, 33)
    assert ((counts > 0).sum(axis=1) == 3).all()
    assert set((counts > 0).sum(axis=0)) == {9, 10}
    for of_class in counts.T:
        assert np.ptp(of_class[of_class > 0]) <= 1
    pairs = {tuple(np.flatnonzero(row)) for row in counts}
    assert len(pairs) > 20  # classes meet at random


@pytest.mark.parametrize(
    ("wanted", "clients", "message"),
    [
        (5, 4, "classes_per_client=5: there are 4 classes"),
        (1, 3, "classes_per_client=1: 3 clients have at most 3 of the 4 classes"),
        (4, 6, "20 examples of 4 classes are too few for 6 clients with 4 classes each"),
    ],
)
def test_classes_that_cannot_be_had_are_refused(wanted, clients, message):
    with pytest.raises(InputError, match=message):
        ClassesPerClient(wanted).split(np.arange(20) % 4, clients, generator())


def test_groups_stay_together():
    groups = np.array([7, 3, 7, 9, 3, 9, 9])
    labels = np.zeros(7, np.int64)
    each = Natural().split(labels, 3, generator(), groups)
    assert [share.tolist() for share in each] == [[1, 4], [0, 2], [3, 5, 6]]
    halves = Natural().split(np.zeros(100, np.int64), 3, generator(), np.arange(100) // 10)
    assert sorted(len(share) for share in halves) == [30, 30, 40]
    assert all((np.bincount(share // 10, minlength=10) % 10 == 0).all() for share in halves)
    with pytest.raises(InputError, match="num_clients: 4 clients cannot share the 3 groups"):
        Natural().split(labels, 4, generator(), groups)


def test_too_few_are_given_some_of_the_largest():
    labels = np.repeat(np.arange(10), 100)
    sizes = counts_of(Dirichlet(alpha=0.01, min_size=20, too_small="move"), labels, 40).sum(axis=1)
    assert sizes.min() == 20
    # Nothing is moved, and nothing drawn otherwise, where nobody has too few.
    first, second = (
        Dirichlet(alpha=5.0, too_small=way).split(labels, 4, generator())
        for way in ("retry", "move")
    )
    assert all(map(np.array_equal, first, second))


def test_a_hopeless_request_is_given_up_before_its_tries_are():
    began = time.perf_counter()
    with pytest.raises(InputError, match=r"in 20 draws .* clients had too few on average"):
        Dirichlet(alpha=0.01, max_tries=10**9).split(np.arange(5000) % 10, 500, generator())
    assert time.perf_counter() - began < 5
