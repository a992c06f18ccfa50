"""The reference of all settings, which is read from the models that check them."""

import pytest
from pydantic import BaseModel, Field

from fedalign.settings.builtin import BUILTIN
from fedalign.settings.config import read
from fedalign.settings.layers import flatten
from fedalign.settings.reference import Setting, keys_of, options_of_part, settings


def test_it_holds_every_setting_of_a_run_and_says_what_it_means():
    stated = flatten(read(None, {}).model_dump())
    parts = {"data", "partition", "model", "client", "strategy"}
    own = {key for key in stated if key.partition(".")[0] not in parts}
    own |= {"partition.seed", "client.round_examples", "client.private"}
    own |= {"evaluation.tasks.on", "evaluation.tasks.finetune"}  # tables, and empty
    own |= {"model.weights", "model.frozen", "model.adapters", "data.classes"}
    found = settings()
    assert {setting.key for setting in found} == own | parts
    assert all(setting.description for setting in found)


def test_what_it_says_of_some_settings():
    found = {setting.key: setting for setting in settings()}
    told = {
        "rounds": ("int", "10", "> 0"),
        "clients_per_round": ("int or null", "null", "> 0"),
        "checkpoint_every": ("auto or int", "auto", ">= 0"),
        "init": ("choice", "shared", "shared | own"),
        "evaluation.repair": ("bool", "false", "true | false"),
        "evaluation.holdout": ("float", "0.0", ">= 0, < 1"),
        "evaluation.threads": ("int", "the number of cores", "> 0"),
        "strategy": ("part", "fedavg", "one of the strategies, or package.module:Name"),
    }
    for key, expected in told.items():
        setting = found[key]
        assert (setting.kind, setting.default, setting.allowed) == expected, key


@pytest.mark.parametrize(
    ("kind", "name"), [(kind, name) for kind, names in BUILTIN.items() for name in names]
)
def test_every_option_of_every_part_is_described(kind, name):
    for option in options_of_part(kind, name):
        assert len(option.description) > 3, option.key


def test_what_it_says_of_an_option():
    options = {option.key: option for option in options_of_part("strategies", "fedadam")}
    described = "decay of the mean of updates (momentum)"
    assert options["beta_1"] == Setting("beta_1", "float", "0.9", ">= 0, < 1", described)
    options = {option.key: option for option in options_of_part("strategies", "qfedavg")}
    assert options["client_learning_rate"].default == "required"


class _Arm(BaseModel):
    vary: dict[str, list[int]] = Field(default_factory=dict, description="axes")


class _Tables(BaseModel):
    title: str = Field(min_length=1, description="heading")
    arms: dict[str, _Arm] = Field(default_factory=dict, description="by label")


def test_tables_in_tables():
    assert [(s.key, s.kind, s.default, s.allowed) for s in keys_of(_Tables)] == [
        ("title", "text", "required", "length >= 1"),
        ("arms", "table", "{}", ""),
        ("arms.NAME.vary", "table", "{}", ""),
    ]
