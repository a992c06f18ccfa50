"""`data.classes`: some of the classes, with new numbers and their names."""

from dataclasses import replace

import pytest
import torch

from fedalign.data import Dataset
from fedalign.data.classes import numbers_of, of_classes, spec_of
from fedalign.errors import InputError
from fedalign.federation.federation import Federation
from fedalign.settings.config import read


def data(names=()):
    labels = torch.tensor([2, 0, 3, 1, 2, 3])
    images = torch.arange(6, dtype=torch.uint8).view(6, 1, 1, 1)
    return Dataset(images, labels, 4, (0.5,), (0.5,), "made up", class_names=names)


def test_classes_get_new_numbers_in_the_order_given():
    found = of_classes(data(("a", "b", "c", "d")), [3, 0, 2])
    assert found.images.flatten().tolist() == [0, 1, 2, 4, 5]
    assert found.labels.tolist() == [2, 1, 0, 2, 0]
    assert found.class_names == ("d", "a", "c")
    assert found.classes == 3
    assert found.source == "made up; only the 5 examples of d, a, c"
    assert found.spec == spec_of(data(("a", "b", "c", "d")).spec, [3, 0, 2])


def test_classes_without_names_are_called_by_their_old_numbers():
    assert of_classes(data(), "0,2-3").class_names == ("0", "2", "3")


@pytest.mark.parametrize("given", ["", "a", [0, 0], "1-0", "2-4 3", [-1]])
def test_what_is_no_list_of_classes_is_refused(given):
    with pytest.raises(InputError, match=r"data\.classes"):
        numbers_of(given)


def test_a_class_that_the_data_do_not_have_is_refused():
    with pytest.raises(InputError, match=r"data\.classes: 4 is no class of this data, whose are 0"):
        of_classes(data(), [1, 4])
    text = Dataset(
        torch.zeros(2, 3, dtype=torch.uint8), torch.zeros(2).long(), 4, (), (), "made up"
    )
    with pytest.raises(InputError, match="text of 3 characters has no classes to choose from"):
        of_classes(text, [1])


def test_tasks_of_the_classes_that_are_left_get_new_numbers():
    spec = replace(data().spec, label_sets=(0, 0, 1, 2))
    assert spec_of(spec, [3, 1, 0]).label_sets == (0, 1, 1)


def test_both_parts_of_any_data_set_have_these_classes_only():
    federation = Federation(read(None, {"data.classes": "0-8"}))
    assert federation.spec.classes == federation.test.classes == 9
    assert int(federation.test.labels.max()) == int(federation.train.labels.max()) == 8
    assert federation.network.layout.entries[-1].shape == (9,)
