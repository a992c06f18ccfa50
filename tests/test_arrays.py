import numpy as np
import pytest
from flwr.app import Array

from fedalign.arrays import view_of


@pytest.mark.parametrize(
    "values",
    [
        np.arange(12, dtype=np.float32).reshape(3, 4),
        np.array(5),
        np.zeros((0, 3), np.float16),
        np.array([True, False]),
        np.arange(3, dtype=">i8"),
    ],
)
def test_the_same_values_without_a_copy(values):
    array = Array(values)
    view = view_of(array)
    assert (view.dtype, view.shape) == (values.dtype, values.shape)
    assert np.array_equal(view, values)
    assert not view.flags.writeable


@pytest.mark.parametrize(
    "values", [np.asfortranarray(np.arange(6.0).reshape(2, 3)), np.zeros((1,) * 64)]
)
def test_what_has_no_view_is_copied(values):
    assert np.array_equal(view_of(Array(values)), values)


def test_other_bytes_are_flowers_business():
    with pytest.raises(TypeError, match="Unsupported serialization type"):
        view_of(Array("float32", (2,), "something.else", b"12345678"))
