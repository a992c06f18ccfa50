"""The checker finds each way in which a partitioner can be wrong, and says which."""

import numpy as np
import pytest

from fedalign.errors import InputError
from fedalign.testing import check_partitioner


class Right:
    """Deals round robin, and then spoils it as told."""

    def __init__(self, spoil=lambda shares, *_: shares):
        self.spoil = spoil

    def split(self, labels, num_clients, rng):
        shares = [np.arange(k, len(labels), num_clients) for k in range(num_clients)]
        return self.spoil(shares, labels, rng)


def reverse(shares, _labels, _rng):
    return [share[::-1] for share in shares]


def change_labels(shares, labels, _rng):
    labels[0] += 1
    return shares


def global_numpy(shares, _labels, _rng):
    np.random.random()
    return shares


class Remembers(Right):
    calls = 0

    def split(self, labels, num_clients, rng):
        self.calls += 1
        shares = super().split(labels, num_clients, rng)
        return shares[::-1] if self.calls == 2 else shares


def test_a_right_one_passes():
    check_partitioner(Right())


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda s, *_: s[1:], "9 shares for 10 clients"),
        (lambda s, *_: tuple(s), "10 shares for 10 clients"),
        (lambda s, *_: [list(own) for own in s], "share is list, not a NumPy array"),
        (lambda s, *_: [own.astype(np.int32) for own in s], "share is int32"),
        (lambda s, *_: [s[0][:0], *s[1:]], "client 0's share is empty"),
        (lambda s, *_: [*s[:-1], s[-1][1:]], r"1 indices belong to no client, such as \[9\]"),
        (lambda s, *_: [np.append(0, s[1]), *s[1:]], "belong to several clients"),
        (lambda s, *_: [*s[:-1], s[-1] + 10], r"outside 0\.\.999"),
        (reverse, "not strictly ascending"),
        (change_labels, "changed the labels"),
        (global_numpy, "NumPy's global generator"),
    ],
)
def test_what_is_wrong_is_said(spoil, message):
    with pytest.raises(AssertionError, match=message):
        check_partitioner(Right(spoil))


def test_one_that_remembers_is_caught():
    with pytest.raises(AssertionError, match="another partition for the same generator"):
        check_partitioner(Remembers())


def test_what_is_stated_is_allowed():
    check_partitioner(Right(lambda s, *_: [s[0][:0], *s[1:]]), may_be_empty=True, partial=True)
    check_partitioner(Right(lambda s, *_: [np.arange(1000), *s[1:]]), overlap=True)


class Refuses(Right):
    def __init__(self, fewest):
        super().__init__()
        self.fewest = fewest

    def split(self, labels, num_clients, rng):
        if num_clients < self.fewest:
            raise InputError("too few")
        return super().split(labels, num_clients, rng)


def test_one_client_may_be_refused_but_not_as_many_as_told():
    check_partitioner(Refuses(2))
    with pytest.raises(InputError, match="too few"):
        check_partitioner(Refuses(11))


class Grouped:
    def split(self, labels, num_clients, rng, groups):  # noqa: ARG002
        groups %= num_clients
        return [np.flatnonzero(groups == k) for k in range(num_clients)]


def test_groups_are_given_and_must_stay():
    with pytest.raises(AssertionError, match="changed the groups"):
        check_partitioner(Grouped())
