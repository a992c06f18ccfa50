"""Whatever a part raises, and whatever is misspelt, ends in one line that names it."""

import sys

import pytest

from fedalign.errors import InputError, named
from fedalign.report.summary import summary
from fedalign.settings.config import read

PARTS = """
from flwr.serverapp.strategy import FedAvg


def model(shape: tuple[int, int, int], classes: int):
    raise KeyError("no model")


class Split:
    def split(self, labels, num_clients, rng):
        return labels[10**9]


class Data:
    def load(self, part):
        raise RuntimeError("no data\\nat all")


class Strategy(FedAvg):
    def __init__(self, weight: float = 1.0):
        raise ZeroDivisionError(f"weight {weight}")
"""
RAISED = {
    "model": (r"model: 'raising:model': KeyError: 'no model' \(.*raising.py:6\)"),
    "partition": (r"partition: 'raising:Split': IndexError: index .* \(.*raising.py:11\)"),
    "data": (r"data set: 'raising:Data': load\('train'\): RuntimeError: no data at all"),
    "strategy": (r"strategy: 'raising:Strategy': ZeroDivisionError: weight 1.0 \(.*:21\)"),
}


@pytest.fixture
def raising(tmp_path, monkeypatch):
    (tmp_path / "raising.py").write_text(PARTS)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("raising", None)


@pytest.mark.usefixtures("raising")
@pytest.mark.parametrize("place", RAISED)
def test_a_part_that_raises_is_named_with_its_line(place):
    name = {"model": "model", "partition": "Split", "data": "Data", "strategy": "Strategy"}[place]
    with pytest.raises(InputError, match=RAISED[place]) as caught:
        summary(read(None, {place: f"raising:{name}"}))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("given", "meant"), [
    ("strategy=fedprox", "client=fedprox"), ("strategy=fedprx", "client=fedprox"),
    ("client=fedavgm", "strategy=fedavgm"), ("model=dirichlt", "partition=dirichlet"),
    ("partition=fashion-mnst", "data=fashion-mnist"), ("strategy=fedavgg", "'fedavg'"),
])  # fmt: skip
def test_the_nearest_name_is_that_of_any_kind(given, meant):
    key, value = given.split("=")
    with pytest.raises(InputError, match=rf"{key}.name: '{value}' is not .*{meant}"):
        read(None, {key: value})


@pytest.mark.parametrize(("name", "option", "value"), [
    ("qfedavg", "client_learning_rate", 0), ("multikrum", "num_nodes_to_select", 0),
    ("krum", "num_malicious_nodes", -1), ("fedadam", "beta_1", 1.0), ("fedadam", "tau", -1e-3),
    ("fedavgm", "server_momentum", -0.1), ("fedyogi", "beta_2", 2),
])  # fmt: skip
def test_what_flowers_strategies_fail_of_later_is_refused_at_once(name, option, value):
    with pytest.raises(InputError, match=rf"strategy.{option}: {value} is not allowed"):
        read(None, {"strategy": name, f"strategy.{option}": value})


@pytest.mark.parametrize(("name", "option", "most"), [
    ("krum", "num_malicious_nodes", 4), ("bulyan", "num_malicious_nodes", 4),
    ("multikrum", "num_nodes_to_select", 5), ("fedpfn", "base.num_malicious_nodes", 4),
])  # fmt: skip
def test_a_strategy_counts_on_no_more_clients_than_a_round_has(name, option, most):
    base = {"strategy.base": "krum"} if "base" in option else {}
    given = {"strategy": name, "clients_per_round": 5, f"strategy.{option}": most} | base
    summary(read("quickstart", given))
    with pytest.raises(InputError, match=f"{most + 1} is not allowed: 5 clients are in a round"):
        summary(read("quickstart", given | {f"strategy.{option}": most + 1}))


def test_what_a_constructor_refuses_is_refused_by_validate():
    with pytest.raises(InputError, match="strategy: 'fedtrimmedavg': `beta` must be in the range"):
        summary(read(None, {"strategy": "fedtrimmedavg", "strategy.beta": 1.0}))


def test_a_long_message_is_cut_and_an_own_error_passes():
    with pytest.raises(InputError) as caught, named("somebody's"):
        raise ValueError("x" * 10_000)
    assert str(caught.value).startswith("somebody's: ValueError: xxx")
    assert len(str(caught.value)) < 700
    with pytest.raises(InputError, match=r"^known$"), named("somebody's"):
        raise InputError("known")


@pytest.mark.parametrize("given", [[{"a": 1}, "b"], [["a"]], [7], ["a b"], {"a b": None}])
def test_tasks_are_told_by_names(given):
    with pytest.raises(InputError, match=r"evaluation.tasks.on: .* may hold letters, digits and"):
        read(None, {"evaluation.tasks.on": given})


@pytest.mark.parametrize("given", [5, True, 0.5])
def test_tasks_are_a_list_or_a_table(given):
    with pytest.raises(InputError, match="give a list of names, or a table of data sets"):
        read(None, {"evaluation.tasks.on": given})
