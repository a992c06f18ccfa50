"""Arrays out of Ray's shared memory behave as Flower's, and lie there no longer than they may."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedalign.messages.copies import copy_of, private_copy
from fedalign.messages.groups import GroupReplies
from fedalign.network.arrays import LazyArray, record_of
from fedalign.simulation.inline import InlineGrid

LARGE = np.arange(30_000, dtype=np.float32).reshape(100, 300)
VALUES = [
    LARGE,
    np.asfortranarray(LARGE),
    LARGE[::2, ::3],
    np.arange(20_000, dtype=">i8"),
    np.arange(3.0),
    np.array(5),
    np.zeros((0, 3), np.float16),
]


@pytest.fixture(scope="module")
def ship(ray):
    """Return a function that sends an object to Ray's shared memory and back."""
    from fedalign.simulation.shipping import ship_arrays_out_of_band

    ship_arrays_out_of_band()
    InlineGrid(ClientApp(), 1)  # Flower wants to know whose message it is
    return lambda sent: ray.get(ray.put(sent))


def mapped():
    from fedalign.simulation.shipping import MappedStorage

    return MappedStorage.total


@pytest.mark.parametrize("values", VALUES)
@pytest.mark.parametrize("kind", [Array, LazyArray])
def test_an_array_that_was_shipped_is_flowers(ship, values, kind):
    flowers, before = Array(values), mapped()
    came = ship(record_of({"x": kind(values)}))
    array = came["x"]
    assert mapped() - before == (values.nbytes if values.nbytes > 1 << 16 else 0)
    assert isinstance(array, Array)
    assert type(came) is ArrayRecord
    assert (array.dtype, array.shape, array.stype) == (flowers.dtype, flowers.shape, flowers.stype)
    own = array.numpy()
    assert own.flags.writeable
    assert own.flags.f_contiguous == flowers.numpy().flags.f_contiguous
    own[...] = 1
    state = came.to_torch_state_dict() if values.dtype.isnative else {}
    assert all(torch.equal(own, torch.tensor(values)) for own in state.values())
    assert copy.deepcopy(array) == array == pickle.loads(pickle.dumps(array)) == flowers == array
    assert array.data == flowers.data
    assert type(array.data) is bytes
    assert array.object_id == flowers.object_id
    assert came == ArrayRecord({"x": flowers})
    assert mapped() == before  # the bytes are in memory of this process


@pytest.mark.parametrize(
    ("dtype", "stype", "data"),
    [
        ("float32", "pickle", bytes(100_000)),
        ("float32", "numpy.ndarray", bytes(100_000)),
        ("float64", "numpy.ndarray", Array(LARGE).data),
        ("float32", "numpy.ndarray", Array(LARGE).data[:-1]),
    ],
)
def test_bytes_that_are_no_plain_numbers_come_as_they_are(ship, dtype, stype, data):
    sent = Array(dtype, LARGE.shape, stype, data)
    came = ship(sent)
    assert type(came) is Array
    assert came == sent


def test_what_a_client_changes_is_not_seen_by_others(ship):
    content = RecordDict({"arrays": ArrayRecord({"w": Array(LARGE)}), "m": MetricRecord({"n": 1})})
    message = ship(Message(content, 7, "train"))
    one, other = private_copy(message), private_copy(message)
    one.content["arrays"]["w"].stype = "gzip"
    one.content["arrays"]["w"].data = b"packed"
    one.content["m"]["n"] = 2
    del one.content["arrays"]["w"]
    one.content["new"] = ConfigRecord({"a": 1})
    assert other.content == content
    assert vars(other.metadata) == vars(message.metadata)
    with pytest.raises(TypeError):  # it is checked like any record of Flower's
        one.content["m"]["text"] = "no number"


def test_arrays_leave_shared_memory_when_it_is_full_or_given_back(ship, monkeypatch):
    from fedalign.simulation import shipping

    before, size = mapped(), LARGE.nbytes
    monkeypatch.setattr(shipping, "MAX_MAPPED", before + 2 * size)
    kept = [ship(kind(LARGE)) for kind in (LazyArray, Array, LazyArray, Array)]
    assert mapped() == before + 2 * size
    shipping.leave_shared_memory()
    assert mapped() == 0
    assert all(np.array_equal(array.numpy(), LARGE) for array in kept)
    assert all(array == Array(LARGE) for array in kept)


def test_stored_states_do_not_occupy_shared_memory(ship):
    state = RecordDict({"x": ArrayRecord({"w": Array(LARGE)})})
    reply = Message(state, 7, "train")
    before = mapped()
    came = ship(GroupReplies([reply], states={7: copy_of(state)}, notes=["why"]))
    assert mapped() == before + LARGE.nbytes  # of the reply
    assert (came.states, came.notes) == ({7: state}, ["why"])
    del came.replies[:]
    assert mapped() == before
