import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from partitions.quantity import Quantity
from partitions.sizes import apportioned, equal, lifted, topped_up


def one_by_one(sizes, min_size):
    """Let whoever is largest, the last of them, give one at a time."""
    sizes = list(sizes)
    while (lack := [k for k, size in enumerate(sizes) if size < min_size]) != []:
        largest = max(range(len(sizes)), key=lambda k: (sizes[k], k))
        sizes[largest] -= 1
        sizes[lack[0]] += 1
    return sizes


@given(st.lists(st.integers(0, 30), min_size=1, max_size=8), st.integers(0, 5))
def test_the_largest_give_to_those_who_lack(sizes, min_size):
    if sum(sizes) >= len(sizes) * min_size:
        assert sorted(lifted(np.array(sizes), min_size)) == sorted(one_by_one(sizes, min_size))
        assert lifted(np.array(sizes), min_size).sum() == sum(sizes)


def test_the_largest_give_by_hand():
    assert lifted(np.array([4, 4, 0]), 1).tolist() == [4, 3, 1]
    assert lifted(np.array([9, 1, 0]), 3).tolist() == [4, 3, 3]


def test_only_examples_that_are_given_change_their_owner():
    owner = np.array([0, 0, 0, 0, 0, 1, 1, 1, 2])
    after = topped_up(owner, 4, 2, np.random.default_rng(0))
    assert np.bincount(after, minlength=4).tolist() == [3, 2, 2, 2]
    assert (owner != after).sum() == 3
    chosen = {tuple(topped_up(owner, 4, 2, np.random.default_rng(k))) for k in range(40)}
    assert len(chosen) > 10  # at random


@given(st.lists(st.floats(0.01, 9), min_size=1, max_size=9), st.integers(20, 99))
def test_sizes_in_proportion(weights, examples):
    weights = np.array(weights)
    sizes = apportioned(weights, examples, 0)
    assert sizes.sum() == examples
    assert (np.abs(sizes - weights / weights.sum() * examples) <= 1 + 1e-9).all()
    assert apportioned(weights, examples, 2).min() >= 2


@given(st.integers(0, 99), st.integers(1, 9))
def test_equal_sizes_are_those_of_numpy(examples, clients):
    expected = [len(part) for part in np.array_split(np.arange(examples), clients)]
    assert equal(examples, clients).tolist() == expected


def sizes_of(clients=1000, examples=1_000_000, seed=0, **options):
    labels = np.zeros(examples, np.int64)
    shares = Quantity(**options).split(labels, clients, np.random.default_rng(seed))
    return np.array([len(share) for share in shares])


def test_zipf_sizes_fall_as_one_over_the_rank_and_ranks_are_dealt_at_random():
    sizes = sizes_of(clients=4, examples=25, law="zipf", exponent=1)  # 12, 6, 4, 3
    assert sorted(sizes.tolist()) == [3, 4, 6, 12]
    first = {sizes_of(4, 25, seed, law="zipf")[0] for seed in range(40)}
    assert first == {3, 4, 6, 12}
    assert sizes_of(4, 40, law="zipf", exponent=0).tolist() == [10] * 4


def test_log_normal_sizes_have_the_given_deviation():
    sizes = sizes_of(law="lognormal", sigma=0.5)
    assert np.log(sizes).std() == pytest.approx(0.5, rel=0.1)
    assert sizes_of(law="lognormal", sigma=0, clients=10).tolist() == [100_000] * 10


def test_dirichlet_sizes_have_the_variance_of_the_distribution():
    # Beta(alpha, (K - 1) alpha): variance (1/K)(1 - 1/K) / (K alpha + 1).
    shares = sizes_of(law="dirichlet", alpha=2.0) / 1_000_000
    assert shares.var() == pytest.approx(0.001 * 0.999 / 2001, rel=0.2)


def test_sizes_and_labels_are_independent():
    labels = np.arange(20_000) % 4
    for share in Quantity(law="zipf").split(labels, 5, np.random.default_rng(0)):
        assert np.allclose(np.bincount(labels[share]) / len(share), 0.25, atol=0.03)
