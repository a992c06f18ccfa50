"""True and false are no numbers, wherever a number is meant."""

from typing import Annotated

import pytest
from pydantic import Field

from fedalign.errors import InputError
from fedalign.settings.booleans import read_as_number
from fedalign.settings.builtin import BUILTIN, KINDS
from fedalign.settings.config import Config, read
from fedalign.settings.layers import validate
from fedalign.settings.registry import names, options, parse
from fedalign.settings.sections import Evaluation, Section, Simulation


def is_refused(read_it):
    try:
        return read_it(), False
    except InputError:
        return None, True


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize(
    "key",
    [
        *sorted(Config.model_fields.keys() - KINDS.keys()),
        *(f"evaluation.{key}" for key in Evaluation.model_fields),
        *(f"simulation.{key}" for key in Simulation.model_fields),
    ],
)
def test_a_setting_is_a_truth_value_or_refuses_one(key, value):
    found, refused = is_refused(lambda: read(None, {key: value}))
    for step in key.split(".") if not refused else ():
        found = getattr(found, step)
    assert refused or found is value


@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize("kind", BUILTIN)
def test_so_is_each_option_of_each_part(kind, value):
    for name in names(kind):
        for key, option in options(kind, name).items():
            given = {"name": name, key: value}
            found, refused = is_refused(lambda given=given: parse(kind, given, "here"))
            assert refused or found.options[key] is value, f"{name}: {key}: {option}"


def test_the_place_and_what_is_needed_are_named():
    wanted = r"command line: evaluation\.alphas: False is not allowed: a number is needed"
    with pytest.raises(InputError, match=wanted):
        read("quickstart", {"evaluation.alphas": False})
    with pytest.raises(InputError, match=r"client\.lr: True is not allowed: a number is needed"):
        read("quickstart", {"client.lr": True})


class Nested(Section):
    rows: list[Annotated[int, Field(ge=0)]] = Field([])
    table: dict[str, float | bool] = Field({})


@pytest.mark.parametrize(
    ("given", "refused"),
    [
        ({"rows": [1, 0]}, False),
        ({"rows": [1, False]}, True),
        ({"table": {"a": True}}, False),  # it may hold either
    ],
)
def test_inside_lists_and_tables_too(given, refused):
    assert is_refused(lambda: validate(Nested, given))[1] is refused


def test_a_number_in_a_table_is_found():
    assert read_as_number({"a": [True]}, {"a": [1]})
    assert not read_as_number({"a": [True]}, {"a": [True]})
