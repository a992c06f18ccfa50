"""Fresh examples in each round, and examples that the server keeps."""

import json

import numpy as np
import pytest

from fedalign.errors import InputError
from fedalign.federation.examples import keep_back
from fedalign.federation.federation import Federation
from fedalign.federation.fresh import fresh
from fedalign.fusions.supplies import held_out
from fedalign.rng import rng
from fedalign.settings.config import read

ROWS = np.arange(100, 110)


def walk(count, rounds, client=0):
    return [fresh(ROWS, count, 5, client, number) for number in range(1, rounds + 1)]


@pytest.mark.parametrize("count", [1, 3, 5, 7, 9])
def test_a_walk_visits_all_before_it_begins_anew(count):
    rounds = walk(count, 30)
    assert all(len(set(own.tolist())) == count for own in rounds)  # none twice in a round
    assert all((np.diff(own) > 0).all() for own in rounds)
    whole = 10 // count
    for number in range(0, 30 - whole, 10):  # where a walk begins, a round is one of its own
        begins = number * count % 10 == 0
        seen = np.concatenate(rounds[number : number + whole])
        assert not begins or len(np.unique(seen)) == whole * count
    visits = np.unique(np.concatenate(rounds), return_counts=True)[1]
    assert len(visits) == 10
    assert visits == pytest.approx([3 * count] * 10, abs=count)


def test_the_end_of_a_walk_comes_first_in_the_next_round():
    first, second = (rng(5, "round_examples", 0, number).permutation(10) for number in (0, 1))
    rounds = walk(4, 3)
    assert rounds[0].tolist() == sorted(ROWS[first[:4]])
    assert set(ROWS[first[8:]]) < set(rounds[2].tolist())
    others = [row for row in second if row not in first[8:]][:2]
    assert set(rounds[2].tolist()) == {*ROWS[first[8:]], *ROWS[others]}


def test_clients_walk_apart_and_all_are_all():
    assert [own.tolist() for own in walk(4, 3)] != [own.tolist() for own in walk(4, 3, client=1)]
    for count in (None, 10, 11):
        assert fresh(ROWS, count, 5, 0, 7) is ROWS


def test_clients_may_have_numbers_of_their_own():
    settings = {"per_client": {"round_examples": [5, 1000]}, "num_clients": 2}
    federation = Federation(read(None, settings | {"data.max_examples": 90, "partition": "iid"}))
    assert [federation.num_trained(k, 2) for k in (0, 1)] == [5, 45]
    assert [len(federation.trained_in(3, k, 2)) for k in (0, 1)] == [5, 45]


SHARE = {"evaluation.server_share": 0.1, "data.max_examples": 200, "num_clients": 4}


@pytest.mark.parametrize("partition", ["iid", "replicated", "dirichlet"])
@pytest.mark.parametrize("holdout", [0.0, 0.2])
def test_no_client_has_what_the_server_keeps(partition, holdout):
    config = read(None, SHARE | {"partition": partition, "evaluation.holdout": holdout})
    federation = Federation(config)
    kept, every = federation.of_server, [federation.held(k, 4).owned for k in range(4)]
    assert len(kept) == 20
    owned = np.unique(np.concatenate(every))
    assert np.array_equal(np.union1d(kept, owned), np.arange(200))
    assert not len(np.intersect1d(kept, owned))
    found = held_out(federation, share=0)
    assert found.apart
    assert np.array_equal(found.rows, kept)
    assert not len(Federation(read(None, SHARE | {"evaluation.server_share": 0})).of_server)


def test_every_group_is_left_to_the_clients():
    groups = np.repeat(np.arange(12), [1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3])
    kept = keep_back(20, groups, 0.5, rng(0))
    assert len(kept) == 8  # of 20 examples 12 stay, one of each group
    assert len(np.unique(np.delete(groups, kept))) == 12


def test_a_saved_partition_keeps_what_the_server_keeps(tmp_path):
    federation, file = Federation(read(None, SHARE)), tmp_path / "p.json"
    shares = [federation.held(k, 4).owned.tolist() for k in range(4)]
    file.write_text(json.dumps(shares))
    named = {"partition": "indices", "partition.file": str(file), "partition.partial": True}
    again = Federation(read(None, SHARE | named))
    assert [again.held(k, 4).owned.tolist() for k in range(4)] == shares
    file.write_text(json.dumps(np.arange(200).reshape(4, 50).tolist()))
    again = Federation(read(None, SHARE | named))
    expected = np.setdiff1d(np.arange(50, 100), again.of_server)
    assert np.array_equal(again.held(1, 4).owned, expected)


def test_shares_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"evaluation.server_share: 0.001 of 200 examples is 0"):
        Federation(read(None, SHARE | {"evaluation.server_share": 0.001})).held(0, 4)
    (tmp_path / "test").mkdir()
    np.savez(tmp_path / "test.npz", images=np.zeros((4, 8, 8), np.uint8), labels=np.arange(4))
    data = {"data": "folder", "data.dir": str(tmp_path)}
    with pytest.raises(InputError, match="server has no training set: the data are at the nodes"):
        Federation(read(None, SHARE | data)).reference  # noqa: B018
