import pytest
import torch

from fedalign.data import Dataset
from fedalign.errors import InputError


def dataset(**changed):
    fields = {
        "images": torch.arange(40, dtype=torch.uint8).reshape(10, 1, 2, 2),
        "labels": torch.arange(10),
        "classes": 10,
        "mean": (0.5,),
        "std": (0.25,),
        "source": "a test",
    }
    return Dataset(**(fields | changed))


def test_a_subset_is_fixed_keeps_pairs_and_lies_inside_a_larger_one():
    small, large = dataset().subset(3), dataset().subset(6)
    assert len(small) == 3
    assert torch.equal(small.labels, large.labels[:3])
    assert torch.equal(small.images[:, 0, 0, 0], (small.labels * 4).to(torch.uint8))
    assert small.source == "a test; a fixed random 3 of its 10 examples"


def test_a_subset_keeps_groups():
    whole = dataset(groups=torch.arange(10) * 3)
    assert torch.equal(whole.subset(4).groups, whole.subset(4).labels * 3)


def test_no_limit_and_too_large_a_limit_change_nothing():
    whole = dataset()
    assert whole.subset(None) is whole
    assert whole.subset(11) is whole


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": torch.zeros(10, 1, 2, 2)}, "images must be uint8"),
        ({"images": torch.zeros(10, 2, 2, dtype=torch.uint8)}, "images must be uint8"),
        ({"images": torch.zeros(10, 3, 2, 2, dtype=torch.uint8)}, "3 channels, not 1"),
        ({"labels": torch.arange(9)}, "labels must be int64, one an image"),
        ({"labels": torch.arange(10) - 1}, r"labels -1\.\.8 outside 0\.\.9"),
        ({"groups": torch.arange(9)}, "groups must be int64, one an example"),
        ({"groups": torch.zeros(10)}, "groups must be int64, one an example"),
        ({"classes": 9}, r"labels 0\.\.9 outside 0\.\.8"),
    ],
)
def test_what_is_no_data_set_is_refused_with_its_source(changed, message):
    with pytest.raises(InputError, match=f"a test: .*{message}"):
        dataset(**changed)
