import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedalign.errors import InputError
from partitions.dirichlet import Dirichlet, dirichlet

TEN_CLASSES = np.repeat(np.arange(10), 100)


def generator(seed=0):
    return np.random.default_rng(seed)


@given(
    labels=st.lists(st.integers(0, 4), min_size=1, max_size=120),
    num_clients=st.integers(1, 6),
    alpha=st.floats(1e-6, 1e6),
    min_size=st.integers(1, 3),
    seed=st.integers(0, 2**32),
)
def test_covers_exactly_once_with_min_size_or_refuses(labels, num_clients, alpha, min_size, seed):
    labels = np.array(labels)
    partitioner = Dirichlet(alpha=alpha, min_size=min_size, max_tries=20)
    try:
        parts = partitioner.split(labels, num_clients, generator(seed))
    except InputError:
        return
    assert len(parts) == num_clients
    assert all(part.dtype == np.int64 and (np.diff(part) > 0).all() for part in parts)
    assert min(len(part) for part in parts) >= min_size
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))


def test_the_generator_decides():
    first, again, other = (
        Dirichlet().split(TEN_CLASSES, 10, generator(seed)) for seed in (1, 1, 2)
    )
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_a_large_alpha_is_nearly_even_in_every_class():
    parts = Dirichlet(alpha=1e9).split(TEN_CLASSES, 4, generator())
    counts = np.array([np.bincount(TEN_CLASSES[part], minlength=10) for part in parts])
    assert (counts == 25).all()


def test_a_tiny_alpha_gives_each_class_to_one_client():
    labels = np.repeat(np.arange(40), 5)
    parts = Dirichlet(alpha=1e-3).split(labels, 3, generator())
    owners = [sum(bool((labels[part] == c).any()) for part in parts) for c in range(40)]
    assert sum(owner == 1 for owner in owners) >= 38


@pytest.mark.parametrize("alpha", [1e-300, 1e-3, 0.5, 1.0, 1e300])
def test_shares_are_finite_and_sum_to_one(alpha):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shares = dirichlet(alpha, (50, 7), generator())
    assert np.isfinite(shares).all()
    assert np.allclose(shares.sum(axis=1), 1)


def test_shares_have_the_moments_of_the_distribution():
    # Mean 1/K; variance (1/K)(1 - 1/K) / (K alpha + 1) = 0.25 * 0.75 / 2 for K = 4, alpha = 0.25.
    shares = dirichlet(0.25, (100_000, 4), generator())
    assert np.allclose(shares.mean(axis=0), 0.25, atol=5e-3)
    assert np.allclose(shares.var(axis=0), 0.09375, atol=2e-3)


def test_an_impossible_request_is_refused_at_once():
    with pytest.raises(InputError, match=r"num_clients: 3 .*at least 4 .*the 10 examples"):
        Dirichlet(min_size=4).split(np.zeros(10, np.int64), 3, generator())


def test_a_hopeless_request_ends_in_an_error_that_says_why():
    with pytest.raises(InputError) as error:
        Dirichlet(alpha=1e-3, max_tries=5).split(TEN_CLASSES, 20, generator())
    for word in ("partition.alpha=0.001", "partition.min_size=1", "5 draws", "20 clients"):
        assert word in str(error.value)
    assert "1000 examples" in str(error.value)
    assert "had 0 examples at best" in str(error.value)
