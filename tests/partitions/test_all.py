"""What holds for every partitioner, whatever its options."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedalign.errors import InputError
from fedalign.partitioning import checked, deal, split
from fedalign.settings.builtin import BUILTIN
from fedalign.settings.registry import parse
from fedalign.testing import check_partitioner

ALPHA = st.floats(1e-6, 1e6)
MIN_SIZE = st.integers(1, 3)
OPTIONS = {
    "iid": {},
    "dirichlet": {
        "alpha": ALPHA,
        "min_size": MIN_SIZE,
        "max_tries": st.integers(1, 30),
        "too_small": st.sampled_from(["retry", "move"]),
    },
    "dirichlet-balanced": {"alpha": ALPHA},
    "dirichlet-sized": {"alpha": ALPHA, "sigma": st.floats(0, 9), "min_size": MIN_SIZE},
    "mixture": {
        "alphas": st.lists(ALPHA, min_size=1, max_size=3).map(lambda a: " ".join(map(str, a)))
    },
    "pachinko": {"alpha": ALPHA, "beta": ALPHA},
    "shards": {"shards_per_client": st.integers(1, 4)},
    "classes-per-client": {"classes_per_client": st.integers(1, 4)},
    "quantity": {
        "law": st.sampled_from(["dirichlet", "lognormal", "zipf"]),
        "alpha": ALPHA,
        "sigma": st.floats(0, 99),
        "exponent": st.floats(0, 99),
        "min_size": MIN_SIZE,
    },
    "natural": {},
    "feature-skew": {"base": st.sampled_from(["iid", "natural", "shards"])},
    "replicated": {},
}
ELSEWHERE = {"indices", "flwr"}


def built(name, **options):
    return parse("partitioners", {"name": name, **options}, "partition").build()


def test_all_are_here():
    assert OPTIONS.keys() | ELSEWHERE == BUILTIN["partitioners"].keys()


@pytest.mark.parametrize("name", OPTIONS)
@given(drawn=st.data())
def test_every_index_has_one_owner_and_the_seed_decides(name, drawn):
    """Or an error that names a number, where what is asked for cannot be."""
    pairs = st.tuples(st.integers(-2, 4), st.integers(0, 6))
    labels, groups = np.array(drawn.draw(st.lists(pairs, min_size=1, max_size=120))).T
    options = {key: drawn.draw(values) for key, values in OPTIONS[name].items()}
    num_clients = drawn.draw(st.integers(1, 9))
    partitioner, data = built(name, **options), {"labels": labels, "groups": groups}
    message = ""
    try:
        check_partitioner(
            partitioner, num_clients=num_clients, overlap=name == "replicated", **data
        )
    except InputError as error:
        message = str(error)
    if message:
        assert any(character.isdigit() for character in message)
        return
    shares = split(partitioner, labels, num_clients, np.random.default_rng(1), groups)
    assert min(map(len, shares)) >= options.get("min_size", 1)


@pytest.mark.parametrize("name", sorted(OPTIONS.keys() - {"replicated"}))
def test_another_seed_deals_otherwise(name):
    labels, groups = np.arange(600) % 10, np.arange(600) // 12
    first, other = (
        split(built(name), labels, 7, np.random.default_rng(seed), groups) for seed in (1, 2)
    )
    assert not all(map(np.array_equal, first, other))


@pytest.mark.parametrize("name", sorted(OPTIONS.keys() - {"replicated", "natural"}))
def test_more_clients_than_examples_is_an_error_with_both_numbers(name):
    with pytest.raises(InputError, match=r"(5.*|\b)3.*") as error:
        split(built(name), np.arange(3), 5, np.random.default_rng(0), np.zeros(3, np.int64))
    assert "5" in str(error.value)


@given(st.lists(st.integers(-1, 5), min_size=1, max_size=50))
def test_dealing_by_owner(owner):
    shares = deal(np.array(owner), 6)
    assert [share.tolist() for share in shares] == [
        [i for i, own in enumerate(owner) if own == client] for client in range(6)
    ]


class Grouped:
    def split(self, labels, num_clients, rng, groups):  # noqa: ARG002
        return [np.flatnonzero(groups == client) for client in range(num_clients)]


def test_who_asks_for_groups_gets_them_or_an_error_that_says_who_and_of_what():
    labels, groups = np.zeros(4, np.int64), np.array([1, 0, 1, 0])
    assert [s.tolist() for s in split(Grouped(), labels, 2, None, groups)] == [[1, 3], [0, 2]]
    with pytest.raises(InputError, match="partition: Grouped needs groups, which this data set"):
        split(Grouped(), labels, 2, None)
    with pytest.raises(InputError, match="natural needs groups, which data set 'digits' has not"):
        split(Grouped(), labels, 2, None, called="natural", data="data set 'digits'")


@pytest.mark.parametrize(
    ("dealt", "message"),
    [
        ([[0, 1]], "mine made 1 shares for 2 clients"),
        ([[0, 1], []], "mine left 1 of 2 clients without an example, such as client 1"),
        ([[0, 1], [5]], r"mine dealt example 5, outside 0\.\.4"),
        ([[0, 1], [-1]], r"mine dealt example -1, outside 0\.\.4"),
    ],
)
def test_what_is_no_partition_is_refused_before_anybody_trains(dealt, message):
    with pytest.raises(InputError, match=message):
        checked(dealt, 2, 5, "mine")
