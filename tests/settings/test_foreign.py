"""Names of other frameworks lead to fedalign's, and the page about them says the same."""

import re

import pytest

from fedalign.errors import InputError
from fedalign.settings.builtin import PLACES
from fedalign.settings.config import read
from fedalign.settings.foreign import TABLE, translated
from fedalign.settings.reference import options_of_part, sections, settings
from fedalign.settings.registry import HOME, names

PAGE = (HOME / "docs" / "coming-from.md").read_text("utf-8")
ROWS = [(of, row) for of, rows in TABLE.items() for row in rows]


@pytest.mark.parametrize("row", [row for _, row in ROWS], ids=lambda row: row.names)
def test_what_a_name_leads_to_exists(row):
    keys = {setting.key for setting in settings()} | sections().keys()
    chosen = {}
    for word in row.ours.split():
        key, _, part = word.partition("=")
        if part:
            assert part in names(PLACES[key])
            chosen[key] = part
        elif key not in keys:
            place, _, option = key.rpartition(".")
            usual = {"client": "local", "partition": "dirichlet", "data": "digits"}
            name = chosen.get(place, usual[place])
            assert option in {own.key for own in options_of_part(PLACES[place], name)}, key


def test_each_name_means_one_thing():
    plain = [name.lower().replace("-", "_") for _, row in ROWS for name in row.names.split()]
    assert len(set(plain)) == len(plain)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"num-server-rounds": 3}, "num-server-rounds: no such setting; here it is rounds$"),
        ({"n_clients": 3}, "n_clients: no such setting; here it is num_clients$"),
        (
            {"fraction_fit": 0.1},
            r"clients_per_round \(clients_per_round = fraction x num_clients\)",
        ),
        ({"lr": 0.1}, "lr: no such setting; here it is client.lr$"),
        ({"client.learning_rate": 0.1}, "learning_rate: 'local' has no such option; .* client.lr$"),
        ({"strategy.fraction_train": 0.1}, "'fedavg' has no such option; here it is clients_per_r"),
        (
            {"protocol.n_rounds": 3},
            "protocol: no such .* rounds, num_clients and clients_per_round",
        ),
        ({"partition": "DirichletPartitioner"}, "is not a partitioner; here it is partition=diri"),
        ({"partition": "PathologicalPartitioner"}, "partition=classes-per-client and partition.cl"),
        ({"strategy": "FedAvg"}, "'FedAvg' is not a strategy; did you mean 'fedavg'"),
        ({"strategy": "fluke.algorithms.fedavg.FedAVG"}, "did you mean 'fedavg'"),
        ({"strategy": "FedProx"}, "not a strategy but a client algorithm: client=fedprox"),
        ({"dirichlet": 0.3}, "dirichlet: no such setting; here it is partition=dirichlet and"),
        ({"data.dir": "x"}, r"data.dir: 'digits' has no such option \(classes, max_examples\)"),
        ({"roundz": 3}, "did you mean 'rounds'"),
    ],
)
def test_the_error_says_which_setting_it_is(settings, told):
    with pytest.raises(InputError, match=told):
        read(None, settings)


def test_what_is_known_here_means_what_it_means_here():
    for setting in settings():
        if "." not in setting.key:
            assert not translated(setting.key), setting.key


def test_the_page_has_every_row():
    for of, row in ROWS:
        section = PAGE.partition(f"## From {of}\n")[2].partition("\n## ")[0]
        left = ", ".join(f"`{name}`" for name in row.names.split())
        (line,) = re.findall(rf"^\| {re.escape(left)} \|.*$", section, re.MULTILINE)
        assert all(f"`{word}`" in line for word in row.ours.split())
        assert row.how in line
