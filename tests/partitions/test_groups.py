"""Groups find their way from the data to the partitioner that asks for them."""

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from fedalign.data.digits import Digits
from fedalign.errors import InputError
from fedalign.federation.federation import Federation, adopt
from fedalign.partitioning import checked
from fedalign.settings.config import read


class Written:
    """The digits, as if 12 people had written them in turn."""

    def load(self, part):
        digits = Digits(max_examples=600).load(part)
        return replace(digits, groups=torch.arange(len(digits)) % 12)


def federation(monkeypatch, **settings):
    monkeypatch.setitem(sys.modules, "my_data", sys.modules[__name__])
    return Federation(read(None, {"data": "my_data:Written", **settings}))


def test_clients_are_those_who_wrote(monkeypatch):
    shards = federation(monkeypatch, partition="natural").shards(12)
    assert [set(share % 12) for share in shards] == [{k} for k in range(12)]
    pairs = federation(monkeypatch, partition="natural").shards(6)
    assert all(len(set(share % 12)) == 2 for share in pairs)


def test_a_worker_that_is_given_the_data_has_its_groups(monkeypatch):
    server = federation(monkeypatch, partition="natural")
    shared = server.train.to_numpy()
    assert isinstance(shared["groups"], np.ndarray)
    worker = adopt(server.config.run_config(), shared)
    assert torch.equal(worker.train.groups, server.train.groups)
    assert all(map(np.array_equal, worker.shards(5), server.shards(5)))


def test_data_without_groups_is_named_with_who_needs_them():
    with pytest.raises(InputError) as error:
        Federation(read(None, {"partition": "pachinko"})).shards(4)
    message = "partition: pachinko needs groups, which data set 'digits' has not"
    assert str(error.value) == message


def test_what_all_have_is_looked_at_once():
    everything = np.arange(10**6)
    assert len(checked([everything] * 10**5, 10**5, 10**6, "mine")) == 10**5
