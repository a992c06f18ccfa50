import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedalign.errors import InputError
from partitions.iid import IID


def test_sizes_differ_by_at_most_one():
    parts = IID().split(np.zeros(10, np.int64), 4, np.random.default_rng(0))
    assert [len(part) for part in parts] == [3, 3, 2, 2]


@given(st.integers(1, 60), st.integers(0, 200), st.integers(0, 2**32))
def test_every_index_has_one_owner(num_clients, spare, seed):
    labels = np.zeros(num_clients + spare, np.int64)
    parts = IID().split(labels, num_clients, np.random.default_rng(seed))
    assert len(parts) == num_clients
    assert all(len(part) and (np.diff(part) > 0).all() for part in parts)
    assert np.array_equal(np.sort(np.concatenate(parts)), np.arange(len(labels)))


def test_the_generator_decides():
    labels = np.zeros(50, np.int64)
    first, again, other = (
        IID().split(labels, 5, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


def test_more_clients_than_examples_is_an_error():
    with pytest.raises(InputError, match="num_clients: 4 clients cannot share 3 examples"):
        IID().split(np.zeros(3, np.int64), 4, np.random.default_rng(0))
