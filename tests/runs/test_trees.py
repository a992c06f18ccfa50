"""What is written comes back: same types, same bits, same order; or not at all."""

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fedalign.runs.trees import DamagedError, is_known, pack, read, write

PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
ARRAYS = arrays.arrays(arrays.scalar_dtypes(), arrays.array_shapes(min_dims=0, min_side=0))
TREES = st.recursive(
    PLAIN | ARRAYS,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.integers() | st.text() | st.tuples(st.booleans()), inner)
    ),
)


def same(one, other):
    """Whether two trees are equal in type, order and bits; NaN is NaN and -0.0 is not 0.0."""
    if type(one) is not type(other):
        return False
    if isinstance(one, np.ndarray | np.generic):
        alike = (one.dtype, one.shape) == (other.dtype, other.shape)
        alike = alike and one.flags.f_contiguous == other.flags.f_contiguous
        return alike and one.tobytes() == other.tobytes()
    if isinstance(one, dict | ArrayRecord | MetricRecord | ConfigRecord | RecordDict):
        return same(list(one.items()), list(other.items()))
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return repr(one) == repr(other)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("trees") / "tree.safetensors"


@given(TREES)
def test_a_tree_comes_back_as_it_was(path, tree):
    assert is_known(tree)
    write(path, tree)
    assert same(read(path), tree)


@pytest.mark.parametrize(
    "value",
    [
        RecordDict(
            {
                "z": ArrayRecord({"b": Array(np.ones(2, np.float16)), "a": Array(np.array(3))}),
                "a": MetricRecord({"n": 1, "loss": 0.1, "all": [1.5, 2.5]}),
                "m": ConfigRecord({"on": True, "raw": b"\0\1", "names": ["x", ""]}),
            }
        ),
        {"foreign": Array("bf16", (2, 3), "somebody's", b"\0" * 12)},
        np.float32(0.1),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        [float("nan"), -0.0, 5e-324, 2**80],
        {3: "three", True: "true", (1, 2): None},
    ],
    ids=repr,
)
def test_what_flower_and_numpy_hold(tmp_path, value):
    assert is_known(value)
    write(tmp_path / "x", {"value": value})
    assert same(read(tmp_path / "x"), {"value": value})


def test_what_is_packed_does_not_change_any_more(tmp_path):
    tree = {"a": np.zeros(2), "b": [1]}
    packed = pack(tree)
    tree["a"] += 1
    tree["b"].append(2)
    write(tmp_path / "x", packed.plus({"c": b"more"}))
    assert same(read(tmp_path / "x"), {"a": np.zeros(2), "b": [1], "c": b"more"})


@pytest.mark.parametrize(
    "value", [print, object(), {1}, np.array([object()]), [{"x": (1, object())}], np.random]
)
def test_what_would_not_come_back_is_not_known(value):
    assert not is_known(value)


def test_arrays_that_come_back_can_be_written_to(tmp_path):
    write(tmp_path / "x", np.zeros(3))
    array = read(tmp_path / "x")
    array += 1
    assert array.tolist() == [1, 1, 1]


@pytest.mark.parametrize("break_at", ["fedalign.runs.trees.save_file", "os.fsync"])
def test_a_crash_while_writing_leaves_the_old_file(tmp_path, monkeypatch, break_at):
    def half(_, path, *__):
        path.write_bytes(b"half a file")
        raise KeyboardInterrupt

    def fail(_):
        raise KeyboardInterrupt

    write(tmp_path / "x", "old")
    with monkeypatch.context() as patch:
        patch.setattr(break_at, fail if break_at == "os.fsync" else half)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path / "x", "new")
    assert read(tmp_path / "x") == "old"
    write(tmp_path / "x", "newer")
    assert read(tmp_path / "x") == "newer"
    assert [file.name for file in tmp_path.iterdir()] == ["x"]


def test_every_damage_is_noticed(tmp_path):
    write(tmp_path / "x", {"numbers": np.arange(4.0), "name": "n"})
    whole = (tmp_path / "x").read_bytes()
    for place in range(0, len(whole), 7):
        flipped = bytearray(whole)
        flipped[place] ^= 1
        for broken in (bytes(flipped), whole[:place]):
            (tmp_path / "x").write_bytes(broken)
            with pytest.raises(DamagedError):
                read(tmp_path / "x")


def test_a_missing_file_and_somebody_elses_are_damaged(tmp_path):
    from safetensors.numpy import save_file

    with pytest.raises(DamagedError):
        read(tmp_path / "x")
    save_file({"weight": np.ones(3)}, tmp_path / "x")
    with pytest.raises(DamagedError):
        read(tmp_path / "x")
