import copy
import io
import os
import pickle
import tracemalloc
import warnings

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord
from hypothesis import given
from hypothesis import strategies as st

from fedalign.network.arrays import LazyArray, num_bytes, record_of, view_of

VALUES = [
    np.arange(12, dtype=np.float32).reshape(3, 4),
    np.array(5),
    np.zeros((0, 3), np.float16),
    np.array([True, False]),
    np.arange(3, dtype=">i8"),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.zeros((1,) * 64),
]


@pytest.mark.parametrize("values", VALUES)
def test_the_same_values_without_a_copy(values):
    array = Array(values)
    view = view_of(array)
    assert (view.dtype, view.shape) == (values.dtype, values.shape)
    assert np.array_equal(view, values)
    assert not view.flags.writeable


@pytest.mark.parametrize("values", VALUES)
def test_a_lazy_array_is_flowers_array(values):
    eager, lazy = Array(values), LazyArray(values)
    record = record_of({"x": lazy})
    assert (lazy.dtype, lazy.shape, lazy.stype) == (eager.dtype, eager.shape, eager.stype)
    assert num_bytes(record) == num_bytes(ArrayRecord({"x": eager}))
    assert lazy.storage.data is None  # until now nobody asked
    assert np.array_equal(view_of(lazy), values)
    assert np.array_equal(lazy.numpy(), eager.numpy())
    assert lazy.numpy().flags.f_contiguous == eager.numpy().flags.f_contiguous
    assert lazy.data == eager.data
    assert np.array_equal(view_of(lazy), values)  # which are in memory once
    assert np.shares_memory(view_of(lazy), np.frombuffer(lazy.data, np.uint8)) or not values.size
    assert lazy.values.flags.f_contiguous == values.flags.f_contiguous
    assert not lazy.values.flags.writeable
    assert eager == lazy == copy.copy(lazy) == pickle.loads(pickle.dumps(lazy))
    assert type(pickle.loads(pickle.dumps(lazy))) is Array
    assert lazy.object_id == eager.object_id  # under which Flower sends it
    assert Array.inflate(lazy.deflate(), lazy.children) == eager


def test_the_values_of_a_lazy_array_are_read_only():
    lazy = LazyArray(np.arange(3.0))
    with pytest.raises(ValueError, match="read-only"):
        lazy.values[0] = 1
    lazy.numpy()[0] = 7  # a copy, as Flower's
    assert lazy.numpy().tolist() == [0, 1, 2]


@pytest.mark.parametrize("name", ["data", "shape", "dtype", "stype"])
def test_a_lazy_array_that_is_changed_is_flowers_own_and_its_copies_stay(name):
    new = {"data": b"any", "shape": (3, 1), "dtype": "float16", "stype": "gzip"}[name]
    eager, lazy = Array(np.arange(3.0)), LazyArray(np.arange(3.0))
    twins = copy.copy(lazy), copy.deepcopy(lazy)
    eager_id, lazy_id = eager.object_id, lazy.object_id
    setattr(eager, name, new)
    setattr(lazy, name, new)
    assert type(lazy) is Array
    assert lazy == eager
    assert lazy_id == eager_id != lazy.object_id == eager.object_id
    assert [twin.numpy().tolist() for twin in twins] == [[0, 1, 2]] * 2
    assert twins[0].data is twins[1].data  # in memory once


def npy(values, **options):
    file = io.BytesIO()
    np.save(file, values, **options)
    return file.getvalue()


class Trap:
    """Unpickling it leaves a folder."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return os.mkdir, (str(self.place),)


NUMBERS = npy(np.arange(6, dtype=np.float32))


def header(text):
    padded = text.encode().ljust(118)[:117] + b"\n"
    return b"\x93NUMPY\x01\x00" + len(padded).to_bytes(2, "little") + padded


HUGE = header("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }")
ODD = header("{'descr': '<f3', 'fortran_order': False, 'shape': (), }")


@pytest.mark.parametrize(
    ("dtype", "shape", "stype", "data", "told"),
    [
        ("float32", (6,), "pickle", NUMBERS, "serialised as 'pickle', not as 'numpy.ndarray'"),
        ("float32", (2, 3), "numpy.ndarray", NUMBERS, "another shape or dtype than it states"),
        ("float64", (6,), "numpy.ndarray", NUMBERS, "another shape or dtype than it states"),
        ("float32", (6,), "numpy.ndarray", NUMBERS[:-1], "too few or too many bytes"),
        ("float32", (6,), "numpy.ndarray", NUMBERS + b"1234", "too few or too many bytes"),
        ("float32", (6,), "numpy.ndarray", b"", "not the bytes"),
        ("float32", (6,), "numpy.ndarray", b"PK\x03\x04" + NUMBERS, "not the bytes"),
        ("float32", (10**12,), "numpy.ndarray", HUGE, "too few or too many bytes"),
        ("float32", (6,), "numpy.ndarray", header("{'descr': ("), "not the bytes"),
        ("float32", (6,), "numpy.ndarray", header("__import__('os')"), "not the bytes"),
        ("f3", (), "numpy.ndarray", ODD, "no dtype that NumPy knows"),
    ],
)
def test_bytes_that_are_not_what_they_say_are_refused(dtype, shape, stype, data, told):
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=told):
            view_of(Array(dtype, shape, stype, data))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20  # whatever a header claims
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("dtype", ["object", "float32"])
def test_objects_are_refused_and_never_made(tmp_path, dtype):
    trace = tmp_path / "trace"
    data = npy(np.array([Trap(trace)], dtype=object), allow_pickle=True)
    array = Array(dtype, (1,), "numpy.ndarray", data)
    with pytest.raises(ValueError, match="not the bytes of a NumPy file of numbers"):
        view_of(array)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        array.numpy()  # Flower's own way
    assert not trace.exists()
    np.load(io.BytesIO(data), allow_pickle=True)
    assert trace.exists()  # so it was a trap


@given(st.data())
def test_any_bytes_are_a_view_or_a_value_error(data):
    raw = bytearray(npy(np.arange(6, dtype=np.float32).reshape(2, 3)))
    for place in data.draw(st.lists(st.integers(0, len(raw) - 1), max_size=3)):
        raw[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(raw)) | st.just(len(raw)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            view = view_of(Array("float32", (2, 3), "numpy.ndarray", bytes(raw[:cut])))
        except ValueError:
            return
    assert (view.dtype, view.shape) == (np.float32, (2, 3))
