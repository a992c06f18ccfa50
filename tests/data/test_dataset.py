import numpy as np
import pytest
import torch

from fedalign.data import Dataset, Spec
from fedalign.errors import InputError

TEXT = {"images": torch.zeros(10, 3, dtype=torch.uint8), "mean": (), "std": ()}
TABLE = {"images": torch.arange(30.0).view(10, 3), "mean": (1.0,) * 3, "std": (2.0,) * 3}
TOKENS = TEXT | {"images": torch.arange(30, dtype=torch.int32).view(10, 3), "vocabulary": 30}
NAMES = tuple("abcdefghij")


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


def test_groups_go_where_their_examples_go():
    groups = {"groups": torch.arange(10).flip(0), "group_names": NAMES}
    for part in (dataset(**groups).subset(4), dataset(**groups).at(np.array([7, 2]))):
        assert torch.equal(part.groups, 9 - part.labels)
        assert part.group_names == NAMES
    assert dataset().subset(4).groups is None


def test_text_is_what_nobody_normalises():
    assert dataset(**TEXT).is_text
    assert not dataset().is_text


def test_what_the_examples_look_like_goes_without_them():
    names = {"class_names": NAMES}
    assert dataset(**names).spec == Spec((1, 2, 2), 10, (0.5,), (0.25,), NAMES)
    assert dataset(**names).subset(4).spec == dataset(**names).spec
    assert dataset().spec.labels == tuple("0123456789")
    assert dataset(**TEXT).spec == Spec((3,), 10, (), ())
    assert dataset(**TEXT).spec.is_text


def test_a_table_is_rows_of_numbers():
    table = dataset(**TABLE)
    assert (table.shape, table.spec.is_table, table.spec.is_text) == ((3,), True, False)
    assert table.spec == Spec.from_config(table.spec.to_config())
    assert not dataset().spec.is_table
    assert not dataset(**TEXT).spec.is_table


def test_tokens_have_a_vocabulary_beside_the_classes():
    tokens, sets = dataset(**TOKENS), (0,) * 4 + (1,) * 6
    assert tokens.spec == Spec((3,), 10, (), (), (), 30)
    assert (tokens.spec.is_text, tokens.spec.kind) == (True, "text of 3 tokens")
    several = dataset(**TOKENS, label_sets=sets).at(np.array([3, 1]))
    assert several.label_sets == sets
    assert Spec.from_config(several.spec.to_config()) == several.spec
    again = Dataset.from_numpy(several.to_numpy())
    assert again.spec == several.spec
    assert torch.equal(again.images, several.images)
    assert dataset(**TOKENS | {"images": torch.zeros(10, 3).long()}).images.dtype == torch.int64


def test_no_limit_and_too_large_a_limit_change_nothing():
    whole = dataset()
    assert whole.subset(None) is whole
    assert whole.subset(11) is whole


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            {"images": torch.zeros(10, 1, 2, 2)},
            r"images must be uint8 \(N, C, H, W\) for images or flo",
        ),
        ({"images": torch.zeros(10, 2, 2, dtype=torch.uint8)}, "images must be uint8"),
        (
            {"images": torch.zeros(10, 3, 2, 2, dtype=torch.uint8)},
            r"mean: \(0.5,\) must be numbers, as many as channels: 3",
        ),
        ({"labels": torch.arange(9)}, r"labels must be int64 \(10,\), one for each example"),
        ({"images": np.zeros((10, 1, 2, 2), np.uint8)}, "images must be a tensor, not a ndarray"),
        ({"labels": [0] * 10}, "labels must be a tensor, not a list"),
        ({"std": (0.0,)}, r"std: \(0.0,\) must be above 0"),
        ({"images": torch.zeros(10, 3).double()}, r"not float64 \(10, 3\)"),
        (TABLE | {"mean": (0.0,)}, r"mean: \(0.0,\) must be numbers, as many as features: 3"),
        (TABLE | {"images": torch.full((10, 3), float("inf"))}, "feature 0 of example 0 is inf"),
        ({"labels": torch.arange(10) - 1}, r"labels -1\.\.8 are outside 0\.\.9"),
        ({"groups": torch.zeros(10)}, "groups must be int64, one for each example"),
        ({"class_names": NAMES[1:]}, "names: 9 names, 9 of them different, for 10 classes"),
        ({"classes": 9}, r"labels 0\.\.9 are outside 0\.\.8"),
        (
            {"mean": (), "std": ()},
            r"images must be uint8 \(N, L\) for text, which has no mean, not",
        ),
        (TEXT | {"images": torch.full((10, 3), 10).to(torch.uint8)}, r"code 10 is outside 0\.\.9"),
        (TOKENS | {"vocabulary": 29}, r"token 29 is outside 0\.\.28"),
        (TOKENS | {"images": torch.full((10, 3), -1)}, r"token -1 is outside 0\.\.29"),
        (TOKENS | {"images": TEXT["images"]}, r"must be int32 or int64 \(N, L\) for text wi"),
        (TOKENS | {"vocabulary": None}, r"must be uint8 \(N, L\) for text, which has no mean, not"),
        ({"vocabulary": 3}, "vocabulary: only text has one, and text has no mean"),
        ({"label_sets": (0, 1)}, r"label_sets: \(0, 1\) must be the task of each of 10 classes"),
        ({"label_sets": (0,) * 9 + (2,)}, "0, 1, … without a gap"),
        ({"groups": torch.arange(9)}, "groups must be int64, one for each example"),
        ({"groups": torch.arange(10) - 1}, r"groups -1\.\.8 do not fit 0 group names"),
        (
            {"groups": torch.arange(10), "group_names": NAMES[1:]},
            r"0\.\.9 do not fit 9 group names",
        ),
    ],
)
def test_what_is_no_data_set_is_refused_with_its_source(changed, message):
    with pytest.raises(InputError, match=f"a test: .*{message}"):
        dataset(**changed)
