"""What a part must have, may have and may declare, and what it is given."""

# ruff: noqa: ARG001, ARG002

import sys
from collections.abc import Callable
from typing import Annotated, Optional, Union

import numpy as np
import pytest
from flwr.serverapp.strategy import FedAvg, Strategy
from pydantic import Field
from torch import nn

from clients.local import OWN_STEPS
from fedalign.errors import BadValueError, InputError
from fedalign.federation.federation import Federation
from fedalign.server.strategies import strategy_of
from fedalign.settings import client_contracts, contracts
from fedalign.settings.config import read
from fedalign.settings.conformance import kind_of
from fedalign.settings.registry import load, options, parse, traits
from fedalign.settings.signatures import is_callback


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    monkeypatch.setitem(sys.modules, "mine", sys.modules[__name__])


class Nothing:
    pass


class HalfAStrategy(Strategy):
    def summary(self): ...


class Trains:
    def train(self, stack): ...


class WordyState(Trains):
    stateful = "yes"


class NumberedHalf(FedAvg):
    other_half = 3


class NoEpochs:
    def stretches(self, draw): ...


class Fuses:
    needs = frozenset({"start"})

    def fuse(self, of): ...


class FusesAlone(Fuses):
    def fuse(self): ...


class NeedsAWord(Fuses):
    needs = "start"


class EpochsToCome(NoEpochs):
    by_epochs: bool

    def __init__(self, count: int = 2):
        self.by_epochs = count > 1


class Even(contracts.Partitioner):
    """Says that it is one, and has no constructor."""

    def split(self, labels, num_clients, rng):
        return np.array_split(np.arange(len(labels)), num_clients)


class Transformed(Even):
    transform = "rotated"


class OwnSeed(Even):
    def __init__(self, seed: int = 7, classes: int = 2, layout: str = "x"):
        self.told = seed, classes, layout


class Words(FedAvg):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)


class Listed(Even):
    def __init__(self, *sizes):
        self.sizes = sizes


class AnnotatedSeed(FedAvg):
    def __init__(self, seed: Annotated[int, Field(ge=0)] = 3):
        super().__init__()


class PlainSeed(FedAvg):
    def __init__(self, seed: int = 3):
        super().__init__()


class FlowersName(FedAvg):
    def __init__(self, accountant: Annotated[str, Field(description="mine")] = "x"):
        super().__init__()


class Given(FedAvg):
    def __init__(self, seed: int, num_clients: int, share: float = 0.5):
        super().__init__()
        self.told = seed, num_clients, share


class NeedsAFunction(FedAvg):
    def __init__(self, function: Callable[[int], int]):
        super().__init__()


class Counted(FedAvg):
    """Has an option whose name a built-in strategy's option used to have."""

    def __init__(self, counts: int = 2):
        super().__init__()


class ByMask(FedAvg):
    def plan(self, server_round): ...


def number(shape, classes):
    return 3


def network(shape, classes, depth: int = 1):
    return nn.Linear(shape[0], classes)


@pytest.mark.parametrize(
    ("kind", "name", "told"),
    [
        ("strategies", "Nothing", "lacks aggregate_evaluate, aggregate_train, configure_eval"),
        ("strategies", "HalfAStrategy", "lacks aggregate_evaluate, aggregate_train"),
        ("clients", "Nothing", "lacks train, which a client algorithm must have"),
        ("clients", "WordyState", "stateful: 'yes' is not of type bool"),
        ("strategies", "NumberedHalf", r"other_half: 3 is not of type str \| None"),
        ("schedules", "NoEpochs", "lacks by_epochs, which a schedule must have"),
        ("partitioners", "Nothing", "lacks split, which a partitioner must have"),
        ("partitioners", "Transformed", "transform: 'rotated' is not a method"),
        ("datasets", "Nothing", "lacks load, which a data set must have"),
        ("fusions", "Nothing", "lacks fuse, which a fusion must have"),
        ("fusions", "FusesAlone", r"fuse\(self\) cannot be called as fuse\(of\)"),
        ("fusions", "NeedsAWord", r"needs: 'start' is not of type frozenset"),
        ("models", "Nothing", "lacks forward, named_parameters, which a model must have"),
        ("models", "np", r"'mine:np' is <module 'numpy'.*>, not a class or function"),
    ],
)
def test_a_part_that_breaks_its_contract_is_refused_by_name(kind, name, told):
    with pytest.raises(InputError, match=f"'mine:{name}'.*{told}" if name != "np" else told):
        load(kind, f"mine:{name}")


def test_what_a_function_returns_is_checked_when_it_is_built():
    part = parse("models", {"name": "mine:number"}, "model")
    with pytest.raises(InputError, match="'mine:number': lacks forward"):
        part.build(shape=(1,), classes=2)
    built = parse("models", "mine:network", "model").build(shape=(3,), classes=2, seed=1)
    assert built.weight.shape == (2, 3)


@pytest.mark.parametrize("name", ["EpochsToCome", "Even"])
def test_parts_that_keep_it(name):
    kind = "partitioners" if name == "Even" else "schedules"
    assert load(kind, f"mine:{name}")
    assert parse(kind, f"mine:{name}", "x").build()


@pytest.mark.parametrize(
    ("kind", "name", "told"),
    [
        ("strategies", "Words", r"its constructor takes \*\*kwargs, and every option must be a"),
        ("partitioners", "Listed", r"its constructor takes \*sizes"),
        ("strategies", "AnnotatedSeed", "'seed' cannot be an option, because fedalign gives"),
        ("strategies", "PlainSeed", "'seed' cannot be an option, because fedalign gives"),
        ("strategies", "FlowersName", "'accountant' cannot be an option"),
        ("strategies", "NeedsAFunction", "'function' is a function, which no setting can hold"),
    ],
)
def test_constructors_that_cannot_be_called(kind, name, told):
    with pytest.raises(BadValueError, match=f"x.name: 'mine:{name}': {told}"):
        parse(kind, f"mine:{name}", "x")


def test_what_is_given_is_no_option():
    part = parse("strategies", "mine:Given", "strategy")
    assert list(part.options) == ["share"]
    assert part.build(seed=4, num_clients=9, initial=None).told == (4, 9, 0.5)
    with pytest.raises(BadValueError, match=r"strategy.seed: cannot be set: fedalign itself"):
        parse("strategies", {"name": "mine:Given", "seed": 1}, "strategy")


def test_kinds_that_are_given_nothing_may_use_any_name():
    section = {"name": "mine:OwnSeed", "seed": 1, "classes": 3}
    assert parse("partitioners", section, "partition").build(seed=9).told == (1, 3, "x")


def test_an_option_keeps_a_name_that_another_part_gave_up():
    section = {"name": "mine:Counted", "counts": 5}
    assert parse("strategies", section, "strategy").options == {"counts": 5}


def test_traits_are_declared_or_have_defaults():
    assert traits("clients", "moon") == client_contracts.ClientTraits(
        None, stateful=True, uses_features=True, stacked_options=OWN_STEPS
    )
    assert traits("clients", "mine:Trains") == client_contracts.ClientTraits()
    assert traits("strategies", "matched").moves_neurons
    assert traits("strategies", "scaffold").other_half == "scaffold"
    assert issubclass(ByMask, contracts.PlansMasks)
    assert not issubclass(FedAvg, contracts.PlansMasks)


def test_functions_are_recognised_by_their_type():
    for annotation in (
        Callable,
        Callable[[int], int],
        Callable[..., int] | None,
        Optional[Callable[[int], int]],  # noqa: UP045
        Union[int, Callable[[], int]],  # noqa: UP007
        Annotated[Callable[[], int], "one"],
    ):
        assert is_callback(annotation)
    for annotation in (int, "Callable", list[int], int | None, Annotated[int, Field(gt=0)]):
        assert not is_callback(annotation)


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("fedprox", "'fedprox' is not a strategy but a client algorithm: client=fedprox"),
        ("k_way", "'k_way' is not a strategy but a schedule: strategy.schedule=k_way"),
        ("resnet20", "'resnet20' is not a strategy but a model: model=resnet20"),
        ("fedpfm", "did you mean 'fedpfn'"),
    ],
)
def test_a_name_of_another_kind_is_told(name, hint):
    with pytest.raises(InputError, match=hint):
        load("strategies", name)


def test_the_kind_of_a_part_is_seen_from_what_it_has():
    found = {
        name: kind_of(globals()[name])
        for name in ("Given", "Trains", "Even", "EpochsToCome", "Fuses")
    }
    assert found == {
        "Given": "strategies",
        "Trains": "clients",
        "Even": "partitioners",
        "EpochsToCome": "schedules",
        "Fuses": "fusions",
    }
    assert kind_of(nn.Linear) == kind_of(network) == "models"


def test_flowers_own_parameters_are_left_alone():
    assert list(options("strategies", "krum")) == ["num_malicious_nodes"]


class NoGenerator:
    def split(self, labels, num_clients): ...


class WithGroups:
    def split(self, labels, num_clients, rng, groups): ...


class OneMore:
    def split(self, labels, num_clients, rng, more): ...


class AloneHalf(Trains):
    other_half = "nosuch"


def test_a_method_must_take_what_it_is_given():
    reason = (
        r"split\(self, labels, num_clients\) cannot be called as split\(labels, num_clients, rng"
    )
    with pytest.raises(InputError, match=reason):
        load("partitioners", "mine:NoGenerator")
    with pytest.raises(InputError, match="cannot be called as"):
        load("partitioners", "mine:OneMore")
    assert load("partitioners", "mine:WithGroups") is WithGroups


def test_another_half_that_nobody_has_is_named_with_its_place():
    with pytest.raises(InputError, match="its other_half: 'nosuch' is not a strategy"):
        read(None, {"client": "mine:AloneHalf"})


def test_what_a_strategy_refuses_is_told_in_a_line():
    config = read(None, {"strategy": "fedtrimmedavg", "strategy.beta": 1})
    with pytest.raises(InputError, match="strategy: 'fedtrimmedavg': `beta` must be"):
        strategy_of(Federation(config))


class Lists:
    def load(self, part):
        return [part]


def test_a_data_set_that_loads_something_else_is_named():
    with pytest.raises(InputError, match=r"'mine:Lists': load\('train'\) returned a list"):
        Federation(read(None, {"data": "mine:Lists"})).train  # noqa: B018
