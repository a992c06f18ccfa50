"""Clients' own hyper-parameters: what each client gets, and what is refused by name."""

import numpy as np
import pytest

from fedalign.errors import InputError
from fedalign.settings.config import from_run_config, read
from fedalign.settings.sources import parse_overrides

DRAWN = {
    "lr": {"log_uniform": [1e-4, 1e-2]},
    "weight_decay": {"uniform": [0.0, 0.1]},
    "epochs": {"int_uniform": [2, 4]},
    "optimizer": {"choice": ["sgd", "adam"]},
}


def drawn(given, count=5, **more):
    config = read(None, {"num_clients": count, "per_client": given} | more)
    return [{key: config.client_of(k).options[key] for key in DRAWN} for k in range(count)]


def test_a_clients_values_depend_on_seed_option_and_client_only():
    five, seven = drawn(DRAWN), drawn(DRAWN, 7)
    assert seven[:5] == five
    assert [own["lr"] for own in drawn({"lr": DRAWN["lr"]})] == [own["lr"] for own in five]
    assert drawn(DRAWN, seed=1) != five
    assert len({own["lr"] for own in five}) == 5


def test_they_have_the_distribution_that_was_asked_for():
    many = drawn(DRAWN, 400)
    logs = np.log10([own["lr"] for own in many])
    assert np.histogram(logs, 4, (-4, -2))[0] == pytest.approx([100] * 4, abs=35)
    decays = [own["weight_decay"] for own in many]
    assert np.histogram(decays, 4, (0, 0.1))[0] == pytest.approx([100] * 4, abs=35)
    for key, values in (("epochs", [2, 3, 4]), ("optimizer", ["sgd", "adam"])):
        counts = [sum(own[key] == value for own in many) for value in values]
        assert counts == pytest.approx([400 / len(values)] * len(values), abs=40)


@pytest.mark.parametrize(
    "given",
    [{"lr": [0.1, 0.2, 0.3], "epochs": [1, 2, 1]},
     [{"lr": 0.1, "epochs": 1}, {"lr": 0.2, "epochs": 2}, {"lr": 0.3}]],
)  # fmt: skip
def test_lists_are_dealt_in_order_and_what_they_leave_out_is_common(given):
    own = drawn(given, 3, **{"client.weight_decay": 0.25})
    assert [(one["lr"], one["epochs"]) for one in own] == [(0.1, 1), (0.2, 2), (0.3, 1)]
    assert {one["weight_decay"] for one in own} == {0.25}


def test_the_command_line_and_the_way_to_the_nodes_change_nothing():
    words = ["per_client.lr.log_uniform=[1e-4,1e-2]", "per_client.epochs.choice=[1,2,4]"]
    config = read("{per_client: null}", parse_overrides(words))
    arrived = from_run_config(config.run_config())
    assert [arrived.client_of(k) for k in range(10)] == [config.client_of(k) for k in range(10)]
    assert arrived.digest() == config.digest() != read(None, {}).digest()
    assert read(None, {"per_client": {}}).digest() == read(None, {}).digest()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (3, "per_client: 3 is not allowed: give a table by option, such as {lr: {log_uniform"),
        ([{"lr": 1}, 2], "per_client: [{'lr': 1}, 2] is not allowed: give a table by option"),
        ([{"lr": 1.0}], "per_client: 1 rows for 3 clients; give each client one"),
        ({"lr": [0.1, 0.2]}, "per_client: lr: 2 values for 3 clients; give each client one, or"),
        ({"lr": [0.1, 0.2, -1]},
         "per_client: lr: client 2: -1 is not allowed: input should be greater than 0"),
        ([{}, {"epochs": 0}, {}], "per_client: epochs: client 1: 0 is not allowed"),
        ({"lrr": {"uniform": [0, 1]}},
         "per_client: lrr: client 'local' has no such option; did you mean 'lr'?"),
        ({"lr": 0.1}, "per_client: lr: 0.1 is not allowed: give one of uniform, log_uniform, "),
        ({"lr": {"uniform": [0.1, 1], "choice": [1]}}, "is not allowed: give one of uniform"),
        ({"lr": {"normal": [0, 1]}}, "per_client: lr: {'normal': [0, 1]} is not allowed"),
        ({"lr": {"uniform": [1, 0.1]}}, "lr: uniform: [1, 0.1] is not allowed: give the least"),
        ({"lr": {"uniform": [0.1, True]}}, "lr: uniform: [0.1, True] is not allowed"),
        ({"lr": {"log_uniform": [0, 1]}}, "both ends must be above 0"),
        ({"epochs": {"int_uniform": [1, 2.5]}}, "both ends must be whole numbers"),
        ({"epochs": {"uniform": [1, 2]}}, "epochs: client 0: 1."),
        ({"epochs": {"choice": []}}, "choice: [] is not allowed: give a list of values"),
        ({"private": {"choice": ["head"]}}, "all clients keep the same tensors to themselves"),
        ({"optimizer": {"choice": ["sgdd"]}}, "optimizer: client 0: 'sgdd' is not allowed"),
    ],
)  # fmt: skip
def test_what_is_not_allowed_is_named(given, told):
    with pytest.raises(InputError) as caught:
        read(None, {"num_clients": 3, "per_client": given})
    assert str(caught.value).startswith("command line: per_client")
    assert told in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"strategy": "fednova", "per_client": {"lr": {"uniform": [0.1, 1]}}},
         "per_client: lr: client 0: strategy 'fednova' needs clients with the same lr"),
        ({"strategy": "qfedavg", "strategy.client_learning_rate": 0.1,
          "per_client": {"lr": {"uniform": [0.1, 1]}}}, "strategy 'qfedavg' needs clients with"),
        ({"strategy": "fedpfn", "strategy.base": "feddyn", "client": "feddyn",
          "per_client": {"alpha": {"uniform": [0.1, 1]}}}, "is not the 0.01 of strategy 'feddyn'"),
    ],
)  # fmt: skip
def test_a_strategy_that_counts_on_equal_clients_says_so(settings, told):
    with pytest.raises(InputError) as caught:
        read(None, settings)
    assert told in str(caught.value)
    read(None, settings | {"per_client": {"epochs": {"choice": [1, 2]}}})
